"""A row goes only when it is acked, consumed and old enough."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.contracts.topics import USAGE_EVENTS
from shared.domain.errors import BrokerAway
from shared.spool import forward
from shared.spool.forward import Forwarder
from shared.spool.purge import Purged, group_positions, purge_once
from shared.spool.store import Spool, opened
from tests.conftest import Parts
from tests.support.spool import TOPIC, MemoryLog, messages, number, registered, settings
from tests.support.waiting import eventually

IN_A_WEEK = timedelta(days=7, minutes=1)


async def forward_all(spool: Spool, log: MemoryLog) -> None:
    while await Forwarder(spool, log.send, send_events=1).forward_once():
        pass


async def purge(spool: Spool, positions: Mapping[tuple[str, int], int], after: timedelta = IN_A_WEEK) -> Purged:
    async def read() -> Mapping[tuple[str, int], int]:
        return positions

    return await purge_once(spool, read, datetime.now(UTC) + after)


async def rows_left(spool: Spool) -> list[int]:
    return [row.first_sequence for row in await spool.acked_rows(datetime(2999, 1, 1, tzinfo=UTC), 0, 1000)]


async def forwarded(tmp_path: Path, calls: int = 3) -> tuple[Spool, MemoryLog]:
    """Calls of 10 events each, all of partition 1."""
    spool, log = await registered(settings(tmp_path)), MemoryLog()
    for call in range(calls):
        await spool.append(messages(call * 10, 10))
    await forward_all(spool, log)
    return spool, log


async def test_only_rows_that_the_group_has_passed_go(tmp_path: Path) -> None:
    spool, _ = await forwarded(tmp_path)
    assert await purge(spool, {(TOPIC, 1): 19}) == Purged(10, 2)  # offset 19 itself is not consumed
    assert await rows_left(spool) == [11, 21]
    assert await purge(spool, {(TOPIC, 1): 30}) == Purged(20, 0)
    state = await spool.state()
    assert (state.accepted_total, state.forwarded_total, state.unsent_events) == (30, 30, 0)
    await spool.append(messages(30, 1))
    assert [row.first_sequence for row in await spool.unsent(0, 10)] == [31]
    await spool.close()
    async with opened(settings(tmp_path), "test") as again:
        assert (await again.state()).accepted_total == 31


async def test_seven_days_count_from_the_ack(tmp_path: Path) -> None:
    spool, log = await forwarded(tmp_path)
    assert await purge(spool, log.positions(), timedelta(days=6, hours=23)) == Purged(0, 0)
    assert await purge(spool, log.positions()) == Purged(30, 0)
    await spool.close()


async def test_unsent_rows_never_go(tmp_path: Path) -> None:
    spool, log = await forwarded(tmp_path, calls=1)
    await spool.append(messages(10, 10))
    assert await purge(spool, {(TOPIC, 1): 10**9}) == Purged(10, 0)
    assert len(await spool.unsent(0, 100)) == 1
    await forward_all(spool, log)
    assert len(log.numbers()) == 20
    await spool.close()


@pytest.mark.parametrize("positions", [{}, {("other", 1): 10**9}, {(TOPIC, 0): 10**9}])
async def test_without_a_known_position_everything_is_kept(
    tmp_path: Path, positions: dict[tuple[str, int], int]
) -> None:
    spool, _ = await forwarded(tmp_path)
    assert await purge(spool, positions) == Purged(0, 3)
    await spool.close()


async def test_kafka_away_purges_nothing(tmp_path: Path) -> None:
    spool, _ = await forwarded(tmp_path)

    async def away() -> Mapping[tuple[str, int], int]:
        raise BrokerAway("away")

    with pytest.raises(BrokerAway):
        await purge_once(spool, away, datetime.now(UTC) + IN_A_WEEK)
    assert len(await rows_left(spool)) == 3
    await spool.close()


async def test_a_group_that_went_back_holds_what_was_acked_before_until_a_person_releases_it(tmp_path: Path) -> None:
    spool, log = await forwarded(tmp_path)
    assert await purge(spool, {(TOPIC, 1): 10}) == Purged(10, 2)
    assert await purge(spool, {(TOPIC, 1): 2}) == Purged(0, 2)
    assert await purge(spool, {(TOPIC, 1): 1000}) == Purged(0, 2)  # the old offsets mean nothing in a new log
    await spool.close()
    async with opened(settings(tmp_path), "test") as again:
        await again.append(messages(30, 10))
        await forward_all(again, log)
        assert await purge(again, {(TOPIC, 1): 1000}) == Purged(10, 2)
        await again.release(TOPIC, 1)
        assert await purge(again, {(TOPIC, 1): 1000}) == Purged(20, 0)


async def test_a_topic_that_was_made_anew_holds_what_was_acked_to_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "FIRST_PAUSE_S", 0.001)
    spool, log = await forwarded(tmp_path)
    log.records.clear()
    await spool.append(messages(30, 10))
    await forward_all(spool, log)
    assert await purge(spool, {(TOPIC, 1): 1000}) == Purged(10, 3)
    assert await rows_left(spool) == [1, 11, 21]
    await spool.close()


async def test_a_row_with_an_event_set_aside_stays_and_goes_when_that_is_sent(tmp_path: Path) -> None:
    spool, log = await registered(settings(tmp_path)), MemoryLog(refuse=lambda m: number(m) == 4)
    await spool.append(messages(0, 10))
    await forward_all(spool, log)
    assert await purge(spool, {(TOPIC, 1): 9}) == Purged(0, 0)
    log.refuse = lambda _: False
    [event] = await spool.set_aside()
    [ack] = await log.send([event.message], 1)
    await spool.mark_set_aside(event, ack)
    assert await purge(spool, {(TOPIC, 1): ack[1]}) == Purged(0, 1)
    assert await purge(spool, {(TOPIC, 1): ack[1] + 1}) == Purged(10, 0)
    await spool.close()


async def test_the_file_gives_its_space_back(tmp_path: Path) -> None:
    spool, log = await registered(settings(tmp_path)), MemoryLog()
    for call in range(20):
        await spool.append(messages(call * 100, 100, size=2_000))
    await forward_all(spool, log)
    spool._file.checkpoint(always=True)
    before = (tmp_path / "spool.db").stat().st_size
    assert before > 3_500_000
    assert (await purge(spool, log.positions())).events == 2_000
    assert (tmp_path / "spool.db").stat().st_size < 200_000
    await spool.close()


async def test_positions_are_what_the_group_has_committed_to_kafka_and_nothing_else(parts: Parts) -> None:
    topic, group = parts.kafka.names.topic(USAGE_EVENTS), parts.kafka.names.group("aggregator")

    async def read() -> Mapping[tuple[str, int], int] | None:
        try:
            return await group_positions(parts.kafka, group)()
        except BrokerAway:  # a broker that has just started still loads its groups
            return None

    assert await eventually(read, lambda found: found is not None) == {}
    consumer = AIOKafkaConsumer(bootstrap_servers=parts.bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    consumer.assign([TopicPartition(topic, 2)])
    await consumer.commit({TopicPartition(topic, 2): 7})
    await consumer.stop()
    assert await eventually(read) == {(topic, 2): 7}


async def test_a_crowded_spool_gives_up_its_oldest_consumed_rows_before_their_days_are_over(tmp_path: Path) -> None:
    """An edge whose week of events is more than its cap must go on accepting."""
    spool, log = await registered(settings(tmp_path, spool_cap_bytes=4 * 1024 * 1024)), MemoryLog()
    for call in range(25):
        await spool.append(messages(call * 10, 10, size=10_000))
    assert spool.crowded
    assert await purge(spool, {}, timedelta(0)) == Purged(0, 0)  # nothing of it is in Kafka
    await forward_all(spool, log)
    assert await purge(spool, {(TOPIC, 1): 0}, timedelta(0)) == Purged(0, 0)  # nor consumed
    purged = await purge(spool, log.positions(), timedelta(0))
    assert 0 < purged.events < 250
    assert not spool.crowded
    assert (await rows_left(spool))[-1] == 241
    await spool.close()
