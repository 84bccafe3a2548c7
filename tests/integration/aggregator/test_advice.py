"""Advice never stops: what its own topics lost, or a topic made anew, holds up neither it nor the counting of usage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from services.aggregator import activity
from services.aggregator.activity import Advice
from shared.contracts.messages.activity import KeyActivity, encode_activity
from shared.contracts.topics import KEYS_ACTIVITY
from shared.kafka.consumer import ConsumerLoop, Limits
from shared.kafka.producer import Producer
from shared.postgres.outbox import OutboxMessage
from shared.postgres.pool import Database
from tests.conftest import Parts
from tests.support.activity import START, steady
from tests.support.kafka import admin
from tests.support.waiting import eventually


@asynccontextmanager
async def advising(parts: Parts) -> AsyncIterator[None]:
    """The aggregator's second loop, as app.py wires it."""
    database, producer = Database(parts.database, "khata_aggregator", "test"), Producer(parts.kafka, "test")
    await database.open()
    group, stop = parts.kafka.names.group("aggregator", "activity"), asyncio.Event()
    advice = Advice(parts.kafka, database, producer, group)
    names = [parts.kafka.names.topic(topic) for topic in activity.READ]

    def loop() -> ConsumerLoop:
        limits = Limits(wait_ms=50)
        return ConsumerLoop(parts.kafka, group=group, instance="one", topics=names, handler=advice, limits=limits)

    keeping = asyncio.create_task(activity.keep(advice, loop, stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(keeping, 15)
        await producer.stop()
        await database.close()


async def publish(parts: Parts, records: list[KeyActivity]) -> None:
    topic, producer = parts.kafka.names.topic(KEYS_ACTIVITY), Producer(parts.kafka, "test")
    await producer.send([OutboxMessage(topic, one.key_id.encode(), encode_activity(one)) for one in records])
    await producer.stop()


def minutes(parts: Parts) -> list[int]:
    with psycopg.connect(parts.database_url) as connection:
        rows: list[Any] = connection.execute("SELECT minute FROM usage.key_activity ORDER BY 1").fetchall()
    return [(row[0] - START) // timedelta(minutes=1) for row in rows]


async def stored(parts: Parts, wanted: list[int]) -> None:
    async def found() -> list[int]:
        return minutes(parts)

    await eventually(found, lambda some: some == wanted)


async def test_records_that_retention_took_unread_are_passed_over(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "AGAIN_S", 0.1)
    await publish(parts, steady(5))
    async with advising(parts):
        await stored(parts, [0, 1, 2, 3, 4])
    await publish(parts, steady(5, first=5))
    topic = parts.kafka.names.topic(KEYS_ACTIVITY)
    async with admin(parts) as client:
        partitions = [TopicPartition(topic, number) for number in range(KEYS_ACTIVITY.partitions)]
        await client.delete_records({partition: RecordsToDelete(before_offset=-1) for partition in partitions})
    await publish(parts, steady(2, first=10))
    async with advising(parts):
        await stored(parts, [0, 1, 2, 3, 4, 10, 11])


async def test_old_activity_is_purged_and_young_stays(parts: Parts) -> None:
    with psycopg.connect(parts.database_url) as owner:
        for age in ("34 days 23 hours", "35 days 1 hour", "400 days"):
            owner.execute(
                "INSERT INTO usage.key_activity (key_id, minute, process_id, calls, accepted, rejected) "
                "VALUES ('k', now() - %s::interval, 'p', 1, 1, 0)",
                (age,),
            )
            owner.execute(
                "INSERT INTO usage.anomaly (id, class, key_id, minute, observed, usual, text) "
                "VALUES (%s, 'spike', 'k', now() - %s::interval, 1, 1, 't')",
                (age, age),
            )
    database, stop = Database(parts.database, "khata_aggregator", "test"), asyncio.Event()
    await database.open()
    purging = asyncio.create_task(activity.purge(database, stop))

    async def left() -> tuple[int, int]:
        with psycopg.connect(parts.database_url) as owner:
            rows = owner.execute(
                "SELECT (SELECT count(*) FROM usage.key_activity), (SELECT count(*) FROM usage.anomaly)"
            ).fetchone()
        assert rows is not None
        return rows[0], rows[1]

    await eventually(left, lambda counts: counts == (1, 2))
    stop.set()
    await purging
    await database.close()
