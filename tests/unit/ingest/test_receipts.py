"""Receipts: what is folded, when a minute ends, and that nothing is lost while Kafka is away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.receipts import Receipts
from shared.contracts.headers import SPOOL
from shared.contracts.messages.receipt import Receipt, decode_receipt, fingerprint, hash_of_value
from shared.contracts.topics import INGEST_RECEIPTS, Names
from shared.domain.errors import BrokerAway
from shared.postgres.outbox import OutboxMessage

NOON = datetime(2026, 10, 1, 12, 0, 30, tzinfo=UTC)


@dataclass
class Clock:
    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Kafka:
    """Keeps what is published, or is away."""

    away: bool = False
    published: list[Receipt] = field(default_factory=list)

    async def send(self, messages: Sequence[OutboxMessage], deadline_s: float = 1.0) -> list[tuple[int, int]]:
        if self.away:
            raise BrokerAway("away")
        for message in messages:
            assert (message.topic, message.key) == (INGEST_RECEIPTS.name, b"ingest-1")
            self.published.append(decode_receipt(message.value or b""))
        return [(0, 0)] * len(messages)


def records(*values: bytes, headers: tuple[tuple[str, bytes], ...] = ()) -> list[OutboxMessage]:
    return [OutboxMessage("events", b"k", value, headers) for value in values]


async def test_a_range_tells_offsets_count_and_fingerprint_of_each_partition() -> None:
    receipts, kafka = Receipts("ingest-1", "events", Clock()), Kafka()
    receipts.acked(records(b"a", b"b", b"c"), [(0, 7), (1, 3), (0, 9)])
    receipts.acked(records(b"d"), [(0, 5)])
    await receipts.finish(kafka, Names())
    [receipt] = kafka.published
    assert (receipt.process, receipt.sequence, receipt.last, receipt.unanswered) == ("ingest-1", 1, True, 0)
    assert receipt.minute == datetime(2026, 10, 1, 12, 0, tzinfo=UTC)
    first, second = receipt.ranges
    assert (first.partition, first.first_offset, first.last_offset, first.count) == (0, 5, 9, 3)
    assert first.fingerprint == fingerprint(sum(map(hash_of_value, (b"a", b"c", b"d"))))
    assert (second.partition, second.first_offset, second.last_offset, second.count) == (1, 3, 3, 1)


async def test_what_came_through_a_spool_is_told_apart() -> None:
    receipts, kafka = Receipts("ingest-1", "events", Clock()), Kafka()
    receipts.acked(records(b"a"), [(0, 1)])
    receipts.acked(records(b"b", headers=((SPOOL, b"spool-7"),)), [(0, 2)])
    await receipts.finish(kafka, Names())
    assert [(each.spool, each.first_offset, each.count) for each in kafka.published[0].ranges] == [
        ("", 1, 1),
        ("spool-7", 2, 1),
    ]


async def test_other_topics_are_not_told_of() -> None:
    receipts, kafka = Receipts("ingest-1", "usage", Clock()), Kafka()
    receipts.acked(records(b"a"), [(0, 1)])
    await receipts.finish(kafka, Names())
    assert kafka.published == []


async def test_a_record_whose_ack_never_came_is_counted_apart() -> None:
    receipts, kafka = Receipts("ingest-1", "events", Clock()), Kafka()
    receipts.acked(records(b"a", b"b"), [(-1, -1), (0, 4)])
    await receipts.finish(kafka, Names())
    [receipt] = kafka.published
    assert (receipt.unanswered, [each.count for each in receipt.ranges]) == (1, [1])


async def test_each_minute_is_a_receipt_of_its_own_also_when_the_clock_jumps_back() -> None:
    clock, kafka = Clock(), Kafka()
    receipts = Receipts("ingest-1", "events", clock)
    for minutes in (0, 0, 1, -5):
        clock.now = NOON + timedelta(minutes=minutes)
        receipts.acked(records(b"a"), [(0, 1)])
    await receipts.finish(kafka, Names())
    told = [(each.sequence, each.minute.minute, each.ranges[0].count, each.last) for each in kafka.published]
    assert told == [(1, 0, 2, False), (2, 1, 1, False), (3, 55, 1, True)]


async def test_a_minute_in_which_nothing_was_acked_is_told_by_nobody() -> None:
    clock, kafka = Clock(), Kafka()
    receipts = Receipts("ingest-1", "events", clock)
    await receipts.finish(kafka, Names())
    assert kafka.published == []


async def test_what_kafka_does_not_take_is_published_when_it_is_back() -> None:
    clock, kafka, stop = Clock(NOON.replace(second=59, microsecond=990_000)), Kafka(away=True), asyncio.Event()
    receipts = Receipts("ingest-1", "events", clock)
    receipts.acked(records(b"a"), [(0, 1)])
    running = asyncio.create_task(receipts.run(kafka, Names(), stop))
    await asyncio.sleep(0)
    clock.now += timedelta(seconds=1)
    async with asyncio.timeout(5):
        while not receipts._unpublished:
            await asyncio.sleep(0.005)
    assert kafka.published == []
    kafka.away = False
    stop.set()
    await running
    receipts.acked(records(b"b"), [(0, 2)])
    await receipts.finish(kafka, Names())
    assert [(each.sequence, each.last) for each in kafka.published] == [(1, False), (2, True)]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50), st.binary(max_size=5))), st.randoms())
def test_the_order_of_acks_does_not_matter(acks: list[tuple[int, int, bytes]], random: object) -> None:
    async def receipt_of(acks: list[tuple[int, int, bytes]]) -> list[Receipt]:
        receipts, kafka = Receipts("ingest-1", "events", Clock()), Kafka()
        for partition, offset, value in acks:
            receipts.acked(records(value), [(partition, offset)])
        await receipts.finish(kafka, Names())
        return kafka.published

    shuffled = list(acks)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert asyncio.run(receipt_of(acks)) == asyncio.run(receipt_of(shuffled))
