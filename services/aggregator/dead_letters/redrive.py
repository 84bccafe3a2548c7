"""Redrive and drop: what an operator decides about dead letters.

Redrive, batch by batch, by one operator at a time (an advisory lock of the session, so it ends with the process):

    1  claim: `sending_since` and who, in Postgres; not what is decided, truncated or (unless wanted) of a sealed month
    2  send the bytes that failed to the topic they failed in, with the letter's `dlq.*` headers, and await every ack
                                          crash here: open, and known as perhaps sent; sending again is harmless,
                                          for the identity of an event makes it one, and a webhook has its inbox
    3  mark as redriven, with the audit entry, in one transaction

What fails again comes back as a new letter, with the next `dlq.attempt`.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.aggregator.dead_letters import store
from services.aggregator.dead_letters.store import Claimed, Found
from shared.audit import append as audit
from shared.domain.errors import BrokerAway, Rejected, Usage
from shared.kafka import topics
from shared.kafka.producer import Producer
from shared.postgres.leadership import Candidate, candidate
from shared.postgres.pool import Connection, Database, Role
from shared.runtime.failpoints import failpoint
from shared.runtime.settings import DatabaseSettings, KafkaSettings

ROLE: Role = "khata_aggregator"
ONE_AT_A_TIME = "dead-letters"
BATCH_LETTERS = 500
BATCH_BYTES = 4 * 1024 * 1024


class RedriveSettings(KafkaSettings, DatabaseSettings):
    """What redriving needs."""


@dataclass(frozen=True, slots=True)
class Order:
    """An operator's decision. `id` ties the audit entries of one command together."""

    actor: str
    reason: str
    sealed_too: bool = False
    again: bool = False
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass
class Done:
    """What became of the letters: `refused` by Kafka (with its words), `left` because they may not be sent any more."""

    redriven: int = 0
    left: int = 0
    refused: dict[int, str] = field(default_factory=dict)


def batches(found: Sequence[Found]) -> Iterator[list[int]]:
    """Ids in slices of so many letters and bytes at most."""
    batch: list[int] = []
    size = 0
    for one in found:
        if batch and (len(batch) == BATCH_LETTERS or size + one.bytes > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(one.id)
        size += one.bytes
    if batch:
        yield batch


async def require_topics(settings: KafkaSettings, wanted: Sequence[str]) -> None:
    """Raises Usage naming topics that do not exist: sending would make them, with settings of the broker's own."""
    there = set(await topics.present(settings))
    missing = sorted(set(wanted) - there)
    if missing:
        raise Usage(f"there is no topic {', '.join(missing)}: run `khata topics apply`, or drop these letters")


async def redrive(
    settings: RedriveSettings,
    database: Database,
    found: Sequence[Found],
    order: Order,
    report: Callable[[int], None] = lambda _: None,
) -> Done:
    """Send them all again. Raises Usage while another does, BrokerAway, DatabaseAway; what was marked stays so."""
    done = Done()
    producer = Producer(settings, "dead-letters")
    try:
        async with candidate(settings, ROLE, "dead-letters") as lead:
            await _alone(lead)
            for ids in batches(found):
                await lead.still()
                await _redrive(database, producer, ids, order, done)
                report(done.redriven)
    except BrokerAway as away:
        raise BrokerAway(
            f"{away}; {done.redriven} of {len(found)} letters are redriven: run the same command again for the others "
            "(a letter that is sent twice counts once)"
        ) from away
    finally:
        await producer.stop()
    return done


async def _redrive(database: Database, producer: Producer, ids: list[int], order: Order, done: Done) -> None:
    async with database.transaction() as connection:
        claimed = await store.claim(connection, ids, order.actor, sealed_too=order.sealed_too, again=order.again)
    done.left += len(ids) - len(claimed)
    sent, refused = await _send(producer, claimed)
    await failpoint("aggregator.redrive.before_mark")
    async with database.transaction() as connection:
        places = [place for _, place in sent]
        await store.mark_redriven(connection, [one.id for one, _ in sent], places, order.actor, order.reason)
        await store.release(connection, list(refused))
        owners = [(one.id, one.organisation_id) for one, _ in sent]
        await _audit(connection, order, "dead_letters.redriven", owners, as_adjustment=order.sealed_too)
    done.redriven += len(sent)
    done.refused |= refused


Sent = list[tuple[Claimed, tuple[int, int]]]


async def _send(producer: Producer, claimed: Sequence[Claimed]) -> tuple[Sent, dict[int, str]]:
    """(letter, place in the log) of what Kafka took, and its words about what it never takes. Raises BrokerAway."""
    if not claimed:
        return [], {}
    try:
        places = await producer.send([one.message for one in claimed])
    except Rejected as error:
        if len(claimed) == 1:
            return [], {claimed[0].id: error.message}
        half = len(claimed) // 2  # some of them may be in the log already, which is harmless
        first, second = await _send(producer, claimed[:half]), await _send(producer, claimed[half:])
        return first[0] + second[0], first[1] | second[1]
    return list(zip(claimed, places, strict=True)), {}


async def drop(settings: RedriveSettings, database: Database, found: Sequence[Found], order: Order) -> int:
    """Close them for good; returns how many were open still. Raises Usage while another redrives, DatabaseAway."""
    dropped = 0
    async with candidate(settings, ROLE, "dead-letters") as lead:
        await _alone(lead)
        for ids in batches(found):
            async with database.transaction() as connection:
                owners = await store.drop(connection, ids, order.actor, order.reason)
                await _audit(connection, order, "dead_letters.dropped", owners)
            dropped += len(owners)
    return dropped


async def _alone(lead: Candidate) -> None:
    if not await lead.leads(ONE_AT_A_TIME):
        raise Usage("another redrive or drop of dead letters is under way: wait until it has ended")


async def _audit(
    connection: Connection, order: Order, action: str, owners: Sequence[tuple[int, str | None]], **more: Any
) -> None:
    """One entry per organisation of the batch, naming the letters."""
    by_organisation: defaultdict[str | None, list[int]] = defaultdict(list)
    for id, organisation_id in owners:
        by_organisation[organisation_id].append(id)
    for organisation_id, ids in by_organisation.items():
        await audit.append(
            connection,
            actor=order.actor,
            action=action,
            object_kind="dead_letters",
            object_id=order.id,
            organisation_id=organisation_id,
            details={"letters": sorted(ids), "reason": order.reason, **more},
        )
