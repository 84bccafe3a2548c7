"""The Kafka door: from a full `usage.raw.v1` to `usage.events.v1`; the limit copies the records and reads none."""

from __future__ import annotations

import asyncio
import time
import uuid

from aiokafka import AIOKafkaConsumer

from benchmarks.figure import Figure
from benchmarks.ingest.events import raw_record
from benchmarks.ingest.log import log_end
from benchmarks.stack import BenchParts, running
from shared.contracts.headers import CLOUDEVENT_JSON, CONTENT_TYPE
from shared.contracts.topics import USAGE_EVENTS, USAGE_RAW
from shared.kafka.fast_producer import FastProducer
from shared.postgres.outbox import OutboxMessage

EVENTS = 400_000
SLICE = 10_000
RUNS = 3
POLL_S = 0.02


def measure(parts: BenchParts, _key: str) -> list[Figure]:
    rates, limits = [], []
    for _ in range(RUNS):
        asyncio.run(_fill(parts))
        limits.append(asyncio.run(_copied(parts)))
        rates.append(asyncio.run(_through_the_door(parts)))
    limit = "records copied unread"
    return [Figure("Kafka door, one process", rates, target=50_000, limit=limit, limit_runs=limits)]


async def _fill(parts: BenchParts) -> None:
    topic = parts.kafka.names.topic(USAGE_RAW)
    headers = ((CONTENT_TYPE, CLOUDEVENT_JSON),)
    producer = FastProducer(parts.kafka, "bench-raw")
    await producer.start()
    for first in range(0, EVENTS, SLICE):
        numbers = range(first, first + SLICE)
        records = [OutboxMessage(topic, b"%d" % (number % 1000), raw_record(number), headers) for number in numbers]
        await producer.send(records, 60.0)
    await producer.stop()


async def _through_the_door(parts: BenchParts) -> float:
    """The process starts with everything waiting; from its first record to its last."""
    before = await log_end(parts.kafka)
    with running(parts, "cli", "run", "ingest"):
        first, began = await _at_least(parts, before + 1)
        last, ended = await _at_least(parts, before + EVENTS)
    if last != before + EVENTS:
        raise SystemExit(f"{EVENTS} records became {last - before}")
    return (last - first) / (ended - began)


async def _at_least(parts: BenchParts, wanted: int) -> tuple[int, float]:
    while (found := await log_end(parts.kafka)) < wanted:
        await asyncio.sleep(POLL_S)
    return found, time.perf_counter()


async def _copied(parts: BenchParts) -> float:
    """The last `EVENTS` raw records, read and written again as they are."""
    target = parts.kafka.names.topic(USAGE_EVENTS)
    consumer = AIOKafkaConsumer(
        parts.kafka.names.topic(USAGE_RAW),
        **parts.kafka.client_arguments(),
        group_id=f"bench-{uuid.uuid4().hex}",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    producer = FastProducer(parts.kafka, "bench-copy")
    await producer.start()
    await consumer.start()
    done = 0
    try:
        began = time.perf_counter()
        while done < EVENTS:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=SLICE)).values():
                await producer.send([OutboxMessage(target, record.key, record.value) for record in records], 60.0)
                done += len(records)
        return done / (time.perf_counter() - began)
    finally:
        await consumer.stop()
        await producer.stop()
