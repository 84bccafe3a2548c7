"""What a key did: each call counted once, under whose key it is; bounded; never in a call's way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from services.ingest import activity as module
from services.ingest import http
from services.ingest.activity import Activity
from services.ingest.addresses import Addresses
from services.ingest.http import Allowance
from services.ingest.validate import Sender
from shared.catalogue import keys
from shared.catalogue.cache import CatalogueCache
from shared.contracts.messages.activity import KeyActivity, decode_activity
from shared.contracts.topics import Names
from shared.domain.errors import BrokerAway
from shared.kafka.producer import ACK_DEADLINE_S
from shared.postgres.outbox import OutboxMessage
from tests.support.ingest import HttpDoor, Taken, event, http_door, small_catalogue
from tests.support.services import peppers
from tests.support.usage import NOWHERE

NAMES = Names("t.")
MINUTE = 29_926_920


@dataclass
class Away(Taken):
    """Kafka that takes nothing while `away`."""

    away: bool = True

    async def send(
        self, messages: Sequence[OutboxMessage], deadline_s: float = ACK_DEADLINE_S
    ) -> list[tuple[int, int]]:
        if self.away:
            raise BrokerAway("planted")
        return await super().send(messages, deadline_s)


@dataclass
class Counted:
    door: HttpDoor
    activity: Activity
    now: list[float]
    topic: Away = field(default_factory=lambda: Away(away=False))

    async def told(self) -> dict[str, KeyActivity]:
        """By key: what is published of the minute that ends now."""
        self.now[0] += 60
        self.topic.messages.clear()
        await self.activity.publish(self.topic, NAMES)
        return {one.key_id: one for one in map(_activity, self.topic.messages)}

    def id(self, name: str) -> str:
        return keys.parse(self.door.keys[name]).id


def _activity(message: OutboxMessage) -> KeyActivity:
    assert message.topic == "t.keys.activity.v1"
    found = decode_activity(message.value or b"")
    assert message.key == found.key_id.encode()
    return found


class Full:
    """A limit that lets nobody in."""

    def take(self, sender: Sender, events: int) -> Allowance:
        return Allowance(1.0)

    def look(self, sender: Sender) -> Allowance:
        return Allowance(1.0)


@asynccontextmanager
async def counted(sender: Taken | None = None, limits: http.Limits | None = None) -> AsyncIterator[Counted]:
    cache, texts = small_catalogue()
    now = [MINUTE * 60.0 + 5]
    activity = Activity(cache, Addresses(peppers()), "ingest-1", clock=lambda: now[0])
    async with http_door(NOWHERE, cache, texts, sender=sender or Taken(), limits=limits, activity=activity) as door:
        yield Counted(door, activity, now)


async def test_events_and_calls_are_counted_under_the_key_that_sent_them() -> None:
    async with counted() as one:
        assert (await one.door.post([event(str(n)) for n in range(7)])).status_code == 202
        assert (await one.door.post([event("8"), event("9", subject=None), event("10")])).status_code == 202
        assert (await one.door.post([event("9", subject=None)] * 2)).status_code == 422
        assert (await one.door.post(event("11"), key="trial")).status_code == 202
        assert (await one.door.post(b"{")).status_code == 400
        told = await one.told()
        first = told[one.id("first")]
        assert (first.calls, first.accepted, first.rejected) == (4, 9, 4)
        assert first.failed == {"all_rejected": 1, "malformed": 1}
        assert (first.project_id, first.process_id) == ("acme-app", "ingest-1")
        assert first.minute == datetime.fromtimestamp(MINUTE * 60, UTC)
        assert (told[one.id("trial")].calls, told[one.id("trial")].accepted) == (1, 1)
        assert await one.told() == {}  # once


async def test_only_asking_counts_the_call_and_no_event() -> None:
    async with counted() as one:
        answer = await one.door.client.post(
            "/v1/events?validate_only=true",
            json=[event("1"), event("2", subject=None)],
            headers={
                "Authorization": f"Bearer {one.door.keys['first']}",
                "Content-Type": "application/cloudevents-batch+json",
            },
        )
        assert answer.status_code == 200
        first = (await one.told())[one.id("first")]
        assert (first.calls, first.accepted, first.rejected, first.failed) == (1, 0, 0, {})


async def test_what_kafka_did_not_take_and_what_a_limit_held_up_is_a_failed_call_without_events() -> None:
    async with counted(sender=Away()) as one:
        assert (await one.door.post([event("1"), event("2", subject=None)])).status_code == 503
        first = (await one.told())[one.id("first")]
        assert (first.accepted, first.rejected, first.failed) == (0, 0, {"unavailable": 1})
    async with counted(limits=Full()) as one:
        assert (await one.door.post(event("1"))).status_code == 429
        assert (await one.told())[one.id("first")].failed == {"rate_limited": 1}


async def test_a_stranger_is_unknown_and_who_knows_only_a_keys_id_is_no_client_of_it() -> None:
    async with counted() as one:
        known, wrong = one.door.keys["first"], keys.make(True)[0]
        body = known[:24] + wrong[24:-6]
        mixed = body + keys._checksum(body)
        for key in ("unknown", "Bearer", None, "kh_live_x", mixed, "revoked", "reader"):
            assert (await one.door.post(event("1"), key=key)).status_code in (401, 403)
        told = await one.told()
        assert told["unknown"].failed == {"unauthenticated": 4}
        assert (told["unknown"].project_id, told["unknown"].address_count) == (None, 1)
        assert (told[one.id("first")].failed, told[one.id("first")].addresses) == ({"unauthenticated": 1}, ())
        assert told[one.id("revoked")].failed == {"unauthenticated": 1}
        assert told[one.id("reader")].failed == {"forbidden": 1}
        assert set(told) == {"unknown", one.id("first"), one.id("revoked"), one.id("reader")}


async def test_whatever_strangers_send_takes_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    async with counted() as one:
        for _ in range(300):
            await one.door.post(b"x" * 100, key=keys.make(True)[0])
        assert list(one.activity._entries) == ["unknown"]


async def test_no_address_is_readable_by_default() -> None:
    async with counted() as one:
        await one.door.post(event("1"))
        await one.door.post(event("1"), key="unknown")
        for message in [*(await _messages(one))]:
            assert b"127.0.0.1" not in (message.value or b"")
            [address] = _activity(message).addresses
            assert address.startswith("test1.")


async def _messages(one: Counted) -> list[OutboxMessage]:
    await one.told()
    return one.topic.messages


async def test_sixty_four_addresses_are_listed_and_more_are_counted() -> None:
    async with counted() as one:
        entry = one.activity._entry(one.id("first"))
        for number in range(64):
            entry.saw(f"test1.{number}")
        entry.saw("test1.0")
        told = (await one.told())[one.id("first")]
        assert (len(told.addresses), told.address_count, told.addresses_overflow) == (64, 64, False)
        entry = one.activity._entry(one.id("first"))
        for number in range(5_000):
            entry.saw(f"test1.{number}")
        told = (await one.told())[one.id("first")]
        assert (len(told.addresses), told.address_count, told.addresses_overflow) == (64, 1024, True)


async def test_the_kafka_door_counts_by_project() -> None:
    async with counted() as one:
        one.activity.over_kafka(["acme-app"] * 5, ["acme-app", None, None])
        told = await one.told()
        assert (told["door:acme-app"].accepted, told["door:acme-app"].rejected) == (5, 1)
        assert told["door:acme-app"].project_id == "acme-app"
        assert (told["unknown"].accepted, told["unknown"].rejected) == (0, 2)


async def test_with_kafka_away_the_newest_minutes_wait_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PENDING", 3)
    async with counted() as one:
        one.topic.away = True
        for _ in range(5):
            assert (await one.door.post(event("1"))).status_code == 202
            with pytest.raises(BrokerAway):
                await one.told()
        one.topic.away = False
        await one.activity.publish(one.topic, NAMES)
        minutes = [_activity(message).minute.timestamp() // 60 - MINUTE for message in one.topic.messages]
        assert minutes == [2, 3, 4]


async def test_on_stop_the_minute_that_runs_is_told_too_and_an_absent_kafka_delays_it_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LAST_DEADLINE_S", 0.2)
    stop = asyncio.Event()
    stop.set()
    async with counted() as one:
        await one.door.post(event("1"))
        await one.activity.run(one.topic, NAMES, stop)
        [message] = one.topic.messages
        assert _activity(message).calls == 1

        class Hanging(Taken):
            async def send(
                self, messages: Sequence[OutboxMessage], deadline_s: float = ACK_DEADLINE_S
            ) -> list[tuple[int, int]]:
                await asyncio.Event().wait()
                return []

        await one.door.post(event("2"))
        async with asyncio.timeout(5):
            await one.activity.run(Hanging(), NAMES, stop)


def test_a_cache_without_the_project_is_no_error() -> None:
    activity = Activity(CatalogueCache(), Addresses(peppers()), "ingest-1", clock=lambda: 60.0)
    activity.over_kafka(["gone"], [])
    assert activity._entries["door:gone"].organisation_id is None
