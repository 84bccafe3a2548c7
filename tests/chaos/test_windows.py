"""usage.windows.v1 through an outage of Kafka with a database that goes on, and kills at moments that nobody chose."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shared.contracts.messages.event import event_key
from shared.contracts.topics import USAGE_EVENTS
from shared.kafka import topics
from shared.kafka.producer import Producer
from shared.postgres.outbox import OutboxMessage
from tests.conftest import Parts
from tests.support.broker import private_broker
from tests.support.catalogue import apply_document
from tests.support.pods import Pod
from tests.support.usage import stamped
from tests.support.waiting import eventually
from tests.support.windows import TABLE, view

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

ROUNDS = 12


async def send(parts: Parts, first: int, many: int) -> None:
    producer, topic = Producer(parts.kafka, "test"), parts.kafka.names.topic(USAGE_EVENTS)
    values = [(f"s{id % 40}", stamped(str(id), subject=f"s{id % 40}")) for id in range(first, first + many)]
    try:
        await producer.send([OutboxMessage(topic, event_key("acme-app", key), value) for key, value in values])
    finally:
        await producer.stop()


async def agreed(parts: Parts, events: int) -> None:
    async def found() -> tuple[int, bool]:
        async with await psycopg.AsyncConnection.connect(parts.database_url) as connection:
            table: list[Any] = await (await connection.execute(TABLE)).fetchall()
        return sum(row[8] for row in table if row[3] == "requests"), table == (await view(parts)).lines()

    await eventually(found, lambda said: said == (events, True), 120)


async def test_an_outage_of_kafka_and_kills_leave_the_topic_equal_to_the_table(
    database_url: str, prefix: str, tmp_path: Path
) -> None:
    dice = random.Random(7)
    with private_broker(database_url) as broker:
        parts = Parts(database_url, broker.bootstrap, prefix)
        await topics.apply(parts.kafka, dev=True)
        await apply_document(parts)
        pods = [Pod(f"a{n}", "aggregator", tmp_path, parts.env | {"AGGREGATOR_PUBLISH_SECONDS": "0.1"}) for n in (1, 2)]
        try:
            for pod in pods:
                await asyncio.to_thread(pod.start)
            sent = 0
            for number in range(ROUNDS):
                await send(parts, sent, 200)
                sent += 200
                if number == ROUNDS // 2:
                    broker.kill()
                    await asyncio.sleep(8)  # how long it is away is what is tried
                    await asyncio.to_thread(broker.start)
                else:
                    await asyncio.sleep(dice.uniform(0, 0.5))  # the moment is what is drawn
                    victim = dice.choice(pods)
                    await asyncio.to_thread(victim.kill)
                for pod in pods:
                    if pod.child is None or pod.child.exit_code is not None:
                        await asyncio.to_thread(pod.start)
            await agreed(parts, sent)
        finally:
            for pod in pods:
                if pod.child is not None and pod.child.exit_code is None:
                    pod.kill()
