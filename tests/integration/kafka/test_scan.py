"""A stretch of the log, read without a consumer: exactly what a consumer hands out."""

from __future__ import annotations

import random

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete

from shared.domain.errors import BrokerAway
from shared.kafka import scan as module
from shared.kafka.records import Partition
from shared.kafka.scan import scan
from shared.runtime.settings import KafkaSettings
from tests.conftest import Parts
from tests.support.kafka import admin, read_topic, send

Row = tuple[int, int, bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]


async def scanned(parts: Parts, partition: Partition, start: int, end: int) -> list[Row]:
    return [
        (one.offset, one.timestamp, one.key, one.value, tuple(one.headers))
        async for records in scan(parts.kafka, partition, start, end)
        for one in records
    ]


async def handed_out(parts: Parts, partition: Partition) -> list[Row]:
    records = await read_topic(parts, partition.topic)
    return [
        (one.offset, one.timestamp_ms, one.key, one.value, one.headers)
        for one in records
        if one.partition == partition.partition
    ]


async def test_any_stretch_is_what_a_consumer_hands_out(
    parts: Parts, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(1)
    for _ in range(20):  # each is a batch of its own in the log, and packed
        [(number, _), *_] = await send(parts, topic, [dice.randbytes(9) * 30 for _ in range(dice.randrange(1, 60))])
    partition = Partition(topic, number)
    whole = await handed_out(parts, partition)
    for fetch_bytes, at_once in ((8_000_000, 20_000), (2_000, 7), (1, 1)):  # a fetch brings one batch at least
        monkeypatch.setattr(module, "FETCH_BYTES", fetch_bytes)
        monkeypatch.setattr(module, "RECORDS_AT_ONCE", at_once)
        assert await scanned(parts, partition, 0, len(whole)) == whole
        for _ in range(5):
            start, end = sorted((dice.randrange(len(whole)), dice.randrange(len(whole))))
            assert await scanned(parts, partition, start, end) == whole[start:end]
    assert await scanned(parts, partition, 5, 5) == []


async def test_markers_of_transactions_are_no_records(parts: Parts, topic: str) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=parts.bootstrap, transactional_id="scan")
    await producer.start()
    try:
        for value in (b"a", b"b"):
            async with producer.transaction():
                await producer.send_and_wait(topic, value, partition=0, headers=[("h", b"1")])
    finally:
        await producer.stop()
    found = await scanned(parts, Partition(topic, 0), 0, 4)
    assert [(offset, value, headers) for offset, _, _, value, headers in found] == [
        (0, b"a", (("h", b"1"),)),
        (2, b"b", (("h", b"1"),)),
    ]


async def test_what_is_not_there_any_more_or_not_yet_is_told(
    parts: Parts, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.5)
    [(number, _), *_] = await send(parts, topic, [b"x"] * 10)
    with pytest.raises(BrokerAway, match=r"did not hand out .* at 10"):
        await scanned(parts, Partition(topic, number), 8, 12)
    async with admin(parts) as client:
        await client.delete_records({TopicPartition(topic, number): RecordsToDelete(before_offset=4)})
    with pytest.raises(BrokerAway, match="retention took"):
        await scanned(parts, Partition(topic, number), 0, 10)
    with pytest.raises(BrokerAway, match="UnknownTopicOrPartition|has no leader"):
        await scanned(parts, Partition(topic, 99), 0, 10)
    nobody = KafkaSettings(kafka_bootstrap_servers="127.0.0.1:1")
    with pytest.raises(BrokerAway, match="Unable to bootstrap"):
        await anext(scan(nobody, Partition(topic, 0), 0, 1))


async def test_a_reader_that_stops_in_the_middle_leaves_nothing_behind(parts: Parts, topic: str) -> None:
    [(number, _), *_] = await send(parts, topic, [b"x"] * 100)
    pieces = scan(parts.kafka, Partition(topic, number), 0, 100)
    assert await anext(pieces)
    await pieces.aclose()  # type: ignore[attr-defined]
