"""What the demo's producers send. Pure: the same seed and number give the same events."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

Door = Literal["http", "kafka"]

EVENT_TYPE = "demo.request"
SUBJECTS = 40
DUPLICATE_SHARE = 0.02
CONFLICT_SHARE = 0.005
BAD_SHARE = 0.005


@dataclass(frozen=True, slots=True)
class Send:
    """One event as a producer sends it. `wave` 1 goes after every send of wave 0 was answered.

    `id`, `source`, `type`, `subject` and `data` (JSON) are what it says; empty for bytes that are no event.
    """

    door: Door
    project: str
    body: bytes
    wave: int
    source: str = ""
    id: str = ""
    type: str = ""
    subject: str = ""
    data: str = ""


@dataclass(frozen=True, slots=True)
class Party:
    """A project whose customers use the service, and the time its month spans."""

    project: str
    start: datetime
    end: datetime


def plan(parties: list[Party], events: int, seed: int) -> list[Send]:
    """`events` good events over both doors, and among them duplicates, conflicts and bad ones.

    A conflicting copy goes through the same door with the same subject, after the first was answered.
    """
    chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
    sends: list[Send] = []
    for number in range(events):
        party = parties[number % len(parties)]
        good = _good(party, number, chance)
        sends.append(good)
        if chance.random() < DUPLICATE_SHARE:
            sends.append(_again(good, wave=chance.choice((0, 1))))
        if chance.random() < CONFLICT_SHARE:
            sends.append(_contradiction(good))
        if chance.random() < BAD_SHARE:
            sends.append(_bad(party, number, chance))
    return sends


def _good(party: Party, number: int, chance: random.Random) -> Send:
    # The first and the last second of the month too: that is where a wrong zone would show.
    span = int((party.end - party.start).total_seconds())
    offset = {0: 0, 1: span - 1}.get(number // 2 if number < 4 else -1, chance.randrange(span))
    return _send(
        "kafka" if chance.random() < 0.5 else "http",
        party,
        f"{number:07}",
        party.start + timedelta(seconds=offset),
        {"tokens": chance.randrange(1, 5000), "seconds": f"{chance.randrange(1, 4000) / 1000:.3f}"},
        f"customer-{chance.randrange(SUBJECTS):02}",
    )


def _send(door: Door, party: Party, id: str, time: datetime, data: dict[str, Any], subject: str, wave: int = 0) -> Send:
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": id,
        "source": "demo",
        "type": EVENT_TYPE,
        "subject": subject,
        "time": time.isoformat(),
        "data": data,
    }
    if door == "kafka":
        event["project"] = party.project
    body = json.dumps(event).encode()
    return Send(door, party.project, body, wave, "demo", id, EVENT_TYPE, subject, json.dumps(data))


def _again(good: Send, wave: int) -> Send:
    return Send(good.door, good.project, good.body, wave, good.source, good.id, good.type, good.subject, good.data)


def _contradiction(good: Send) -> Send:
    event = json.loads(good.body)
    event["data"]["tokens"] += 1
    data = json.dumps(event["data"])
    return Send(
        good.door, good.project, json.dumps(event).encode(), 1, good.source, good.id, good.type, good.subject, data
    )


def _bad(party: Party, number: int, chance: random.Random) -> Send:
    """Something that must be refused: by an answer over HTTP, by a dead letter over Kafka."""
    door: Door = "kafka" if chance.random() < 0.5 else "http"
    whole = _send(door, party, f"bad-{number:07}", party.start, {"tokens": 1, "seconds": "1"}, "customer-00")
    event = json.loads(whole.body)
    bodies: list[bytes] = [
        json.dumps(event | {"type": "demo.nobody_counts_this"}).encode(),
        json.dumps(event | {"data": {"tokens": "many", "seconds": "1"}}).encode(),
        json.dumps({name: value for name, value in event.items() if name != "subject"}).encode(),
        json.dumps(event | {"time": "2999-01-01T00:00:00Z"}).encode(),
    ]
    if door == "kafka":
        bodies += [b"this is no JSON", json.dumps(event | {"project": "nobody"}).encode()]
    return Send(door, party.project, chance.choice(bodies), 0)


def waves(sends: list[Send]) -> Iterator[list[Send]]:
    """The sends of each wave, in order."""
    for wave in sorted({send.wave for send in sends}):
        yield [send for send in sends if send.wave == wave]
