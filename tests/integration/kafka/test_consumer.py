"""The consumer loop on a real broker: what it has applied is applied once, whatever happens around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete
from aiokafka.errors import CorruptRecordException, KafkaError

from shared.domain.errors import BrokerAway, DatabaseAway, LogMoved
from shared.kafka import consumer
from shared.kafka.records import Batch
from shared.observability import names
from tests.conftest import Parts
from tests.integration.ingest.test_damaged_records import poison
from tests.support.kafka import admin, committed, read_topic, send
from tests.support.loops import Member, Recorder, group_of, make_table, member, placed
from tests.support.usage import opened
from tests.support.waiting import eventually

pytestmark = pytest.mark.filterwarnings("ignore:Topic .* is not available")


@pytest.fixture
async def recorder(parts: Parts) -> AsyncIterator[Recorder]:
    make_table(parts)
    async with opened(parts.database_url, "khata_aggregator") as database:
        yield Recorder(database, group_of(parts))


def values(first: int, last: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, last)]


async def _holds(recorder: Recorder, expected: list[bytes], deadline_s: float = 20.0) -> None:
    """Exactly these effects, each once."""
    rows = await eventually(recorder.applied, lambda rows: len(rows) >= len(expected), deadline_s)
    assert sorted(int(value) for _, _, value in rows) == sorted(int(value) for value in expected)
    assert len({row[:2] for row in rows}) == len(rows)


async def test_a_new_group_starts_at_the_beginning_and_goes_on_after_a_restart(
    parts: Parts, recorder: Recorder, topic: str
) -> None:
    await send(parts, topic, values(0, 20))
    async with member(parts, recorder, topic) as first:
        assert await first.loop.check() is not None
        await _holds(recorder, values(0, 20))
        assert await first.loop.check() is None
        await first.end()
    await send(parts, topic, values(20, 30))
    async with member(parts, recorder, topic, max_records=3) as second:
        await _holds(recorder, values(0, 30))
        await second.end()
    assert max(len(batch.records) for batch in recorder.batches[1:]) <= 3
    stored = {(p.topic, p.partition): s.next_offset for p, s in (await _stored(recorder, topic)).items() if s}
    assert {key: offset for key, offset in (await committed(parts, recorder.group)).items() if offset >= 0} == stored


async def _stored(recorder: Recorder, topic: str):  # type: ignore[no-untyped-def]
    return await recorder.stored([TopicPartition(topic, number) for number in range(4)])


@pytest.mark.parametrize("again", [10, 25])
async def test_a_topic_that_was_made_anew_stops_the_process_however_many_records_it_has(
    parts: Parts, recorder: Recorder, topic: str, again: int
) -> None:
    await send(parts, topic, values(0, 10))
    async with member(parts, recorder, topic) as first:
        await _holds(recorder, values(0, 10))
        await first.end()
    async with admin(parts) as client:
        await client.delete_topics([topic])
        await eventually(client.list_topics, lambda names: topic not in names)
        await eventually(lambda: _create(client, topic))
    await send(parts, topic, values(100, 100 + again))
    async with member(parts, recorder, topic) as second:
        with pytest.raises(LogMoved, match="made anew"):
            await asyncio.wait_for(second.task, 20)
    await _holds(recorder, values(0, 10))


async def _create(client, topic: str) -> bool:  # type: ignore[no-untyped-def]
    response = await client.create_topics([NewTopic(topic, 4, 1)])
    return response.topic_errors[0][1] == 0


async def test_a_last_record_that_retention_took_is_no_reason_to_stop(
    parts: Parts, recorder: Recorder, topic: str
) -> None:
    partition = (await send(parts, topic, values(0, 10)))[0][0]
    async with member(parts, recorder, topic) as first:
        await _holds(recorder, values(0, 10))
        await first.end()
    await _truncate(parts, topic, partition, 10)
    await send(parts, topic, values(10, 12))
    async with member(parts, recorder, topic) as second:
        await _holds(recorder, values(0, 12))
        await second.end()


async def test_records_that_were_lost_before_they_were_read_stop_the_process(
    parts: Parts, recorder: Recorder, topic: str
) -> None:
    partition = (await send(parts, topic, values(0, 10)))[0][0]
    async with member(parts, recorder, topic) as first:
        await _holds(recorder, values(0, 10))
        await first.end()
    await send(parts, topic, values(10, 15))
    await _truncate(parts, topic, partition, 12)
    async with member(parts, recorder, topic) as second:
        with pytest.raises(LogMoved, match="retention took 2 records"):
            await asyncio.wait_for(second.task, 20)


async def _truncate(parts: Parts, topic: str, partition: int, before: int) -> None:
    async with admin(parts) as client:
        await client.delete_records({TopicPartition(topic, partition): RecordsToDelete(before_offset=before)})


class Sick(Recorder):
    """Its database is away the first times."""

    failures = 3

    async def before(self, batch: Batch) -> None:
        if self.failures:
            self.failures -= 1
            raise DatabaseAway("away")


async def test_a_database_that_is_away_means_the_same_batch_again_and_no_dead_letter(
    parts: Parts, recorder: Recorder, topic: str
) -> None:
    sick = Sick(recorder.database, recorder.group)
    await send(parts, topic, values(0, 10))
    async with member(parts, sick, topic) as running:
        await _holds(sick, values(0, 10))
        await running.end()
    assert len(sick.batches) == 4
    assert all(batch is sick.batches[0] for batch in sick.batches)
    assert await read_topic(parts, topic + ".dlq") == []


async def test_stopping_while_the_database_is_away_leaves_the_batch_for_the_next_start(
    parts: Parts, recorder: Recorder, topic: str
) -> None:
    sick = Sick(recorder.database, recorder.group)
    sick.failures = 10**6
    await send(parts, topic, values(0, 10))
    async with member(parts, sick, topic) as running:
        await eventually(_seen(sick), lambda count: count >= 2)
        await running.end()
    assert await recorder.applied() == []
    async with member(parts, recorder, topic):
        await _holds(recorder, values(0, 10))


def _seen(recorder: Recorder) -> Callable[[], AsyncIterator[int]]:
    async def count() -> int:
        return len(recorder.batches)

    return count  # type: ignore[return-value]


async def test_a_group_whose_coordination_has_died_ends_the_process_so_that_it_is_started_anew(
    parts: Parts, recorder: Recorder, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "GIVE_UP_S", 0.5)
    async with member(parts, recorder, topic) as running:
        await placed(running)
        reader = running.loop._consumer
        assert reader is not None
        task = reader._coordinator._coordination_task
        monkeypatch.setattr(reader._coordinator, "_coordination_task", asyncio.create_task(_die()))
        task.cancel()
        with pytest.raises(BrokerAway, match="could not read for"):
            await asyncio.wait_for(running.task, 10)


async def _die() -> None:
    raise KafkaError("Unexpected error during coordination")


class Frozen(Recorder):
    """Stands still before its transaction until it is let go."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.entered, self.go_on = asyncio.Event(), asyncio.Event()

    async def before(self, batch: Batch) -> None:
        self.entered.set()
        await self.go_on.wait()


async def test_a_zombie_is_fenced_by_its_successor_and_nothing_is_applied_twice(
    parts: Parts, recorder: Recorder, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "REBALANCE_TIMEOUT_MS", 1_500)
    frozen = Frozen(recorder.database, recorder.group)
    await send(parts, topic, values(0, 50))
    async with member(parts, frozen, topic, "zombie"):
        await asyncio.wait_for(frozen.entered.wait(), 10)
        async with member(parts, recorder, topic, "successor"):
            await _holds(recorder, values(0, 50))
            frozen.go_on.set()
            await send(parts, topic, values(50, 60))
            await _holds(recorder, values(0, 60))
    assert frozen.batches[0].records  # it held a batch of its own all the while


class Slow(Recorder):
    """Takes a moment for each batch, so that a rebalance meets one in flight."""

    async def before(self, batch: Batch) -> None:
        await asyncio.sleep(0.02)


async def test_members_that_join_in_the_middle_lose_and_double_nothing(
    parts: Parts, recorder: Recorder, topic: str
) -> None:
    first, second = Slow(recorder.database, recorder.group), Slow(recorder.database, recorder.group)
    await send(parts, topic, values(0, 800), keys=100)
    async with member(parts, first, topic, "one", max_records=5) as one:
        await eventually(_seen(first), lambda count: count >= 5)
        async with member(parts, second, topic, "two", max_records=5) as two:
            await eventually(_seen(second), lambda count: count >= 5)
            await _holds(recorder, values(0, 800))
            await placed(one, two)
            # A static member that comes back at once keeps its partitions: nobody else has to move.
            await _comes_back(parts, two, recorder, topic, one)


async def _comes_back(parts: Parts, two: Member, recorder: Recorder, topic: str, one: Member) -> None:
    before = one.loop._generation
    await two.end()
    async with member(parts, Slow(recorder.database, recorder.group), topic, "two") as again:
        await asyncio.wait_for(placed(again), 4)
        await send(parts, topic, values(800, 900), keys=100)
        await _holds(recorder, values(0, 900))
    assert one.loop._generation == before


async def _retries(parts: Parts) -> float:
    return names.BATCHES.labels(group_of(parts), "retried")._value.get()  # type: ignore[no-any-return]


async def test_a_read_that_fails_after_some_partitions_were_drained_loses_nothing(
    parts: Parts, recorder: Recorder, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka moves the positions of what it had drained before the failing partition, and drops the records."""
    real = AIOKafkaConsumer.getmany
    dropped = 0

    async def failing(self: AIOKafkaConsumer, *partitions: TopicPartition, **arguments: Any) -> Any:
        nonlocal dropped
        fetched = await real(self, *partitions, **arguments)
        if fetched and dropped < 3:
            dropped += 1
            raise CorruptRecordException("Invalid CRC")
        return fetched

    monkeypatch.setattr(AIOKafkaConsumer, "getmany", failing)
    await send(parts, topic, values(0, 60))
    async with member(parts, recorder, topic):
        await _holds(recorder, values(0, 60))
    assert dropped == 3


async def test_records_that_are_missing_from_the_log_stop_the_group(
    parts: Parts, recorder: Recorder, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = AIOKafkaConsumer.getmany

    async def holed(self: AIOKafkaConsumer, *partitions: TopicPartition, **arguments: Any) -> Any:
        fetched = await real(self, *partitions, **arguments)
        return {partition: [r for r in records if r.offset != 3] for partition, records in fetched.items()}

    monkeypatch.setattr(AIOKafkaConsumer, "getmany", holed)
    await send(parts, topic, values(0, 40))
    async with member(parts, recorder, topic) as running:
        with pytest.raises(LogMoved, match="missing from the log"):
            await asyncio.wait_for(running.task, 20)


async def test_an_error_of_the_group_while_the_store_is_away_does_not_end_the_loop(
    parts: Parts, recorder: Recorder, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = AIOKafkaConsumer.getmany
    attempts = 0

    async def before(batch: Batch) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise DatabaseAway("not now")

    async def failing_while_paused(self: AIOKafkaConsumer, *partitions: TopicPartition, **arguments: Any) -> Any:
        if self.paused():
            raise KafkaError("coordination failed")
        return await real(self, *partitions, **arguments)

    monkeypatch.setattr(recorder, "before", before)
    monkeypatch.setattr(AIOKafkaConsumer, "getmany", failing_while_paused)
    await send(parts, topic, values(0, 5))
    async with member(parts, recorder, topic):
        await _holds(recorder, values(0, 5))


async def test_a_restart_before_a_damaged_record_goes_on_with_it(parts: Parts, recorder: Recorder, topic: str) -> None:
    await send(parts, topic, values(0, 3), keys=1)
    async with member(parts, recorder, topic, takes_damaged=True) as running:
        await _holds(recorder, values(0, 3))
        await running.end()
    await poison(parts, topic, b"k0")
    await send(parts, topic, values(3, 6), keys=1)
    async with member(parts, recorder, topic, takes_damaged=True) as running:
        await eventually(recorder.applied, lambda rows: len(rows) >= 7, 20)
        await running.end()
