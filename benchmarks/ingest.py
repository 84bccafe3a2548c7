"""Ingest over HTTP: calls of 100 events, answered after all acks; the limit is the same door without Kafka behind it.

The load runs in this process, on the same two cores; accepted events are held against the log's end.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator

import httpx2
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.catalogue import apply_bench_catalogue
from benchmarks.stack import BenchParts, Figure
from devstack.home import Home
from devstack.supervisor import ServiceSpec, Supervisor
from shared.contracts.topics import USAGE_EVENTS
from shared.runtime.settings import KafkaSettings

CALL = 100
CONNECTIONS = 8


def measure(parts: BenchParts, events: int) -> list[Figure]:
    key = asyncio.run(apply_bench_catalogue(parts))
    ports = Home.at(parts.home).ports(("ingest", "metrics", "limit"))
    door = ServiceSpec(
        "ingest",
        (sys.executable, "-m", "cli", "run", "ingest"),
        parts.env | {"HTTP_PORT": str(ports["ingest"]), "METRICS_PORT": str(ports["metrics"])},
        f"http://127.0.0.1:{ports['metrics']}/readyz",
    )
    limit = ServiceSpec(
        "limit",
        (sys.executable, "-m", "benchmarks.limit_door", str(ports["limit"])),
        {},
        f"http://127.0.0.1:{ports['limit']}/livez",
    )
    with Supervisor(parts.home, report=lambda _: None) as supervisor:
        supervisor.start([door, limit])
        supervisor.wait_ready()
        limit_rate = asyncio.run(_load(f"http://127.0.0.1:{ports['limit']}", key, events))
        before = asyncio.run(log_end(parts.kafka))
        rate = asyncio.run(_load(f"http://127.0.0.1:{ports['ingest']}", key, events))
        written = asyncio.run(log_end(parts.kafka)) - before
    if written != events:
        raise SystemExit(f"accepted {events} events, the log grew by {written}")
    return [Figure(f"ingest, HTTP calls of {CALL}, after all acks", rate, "the same door without Kafka", limit_rate)]


def bodies(events: int) -> Iterator[bytes]:
    for first in range(0, events, CALL):
        yield json.dumps([event(number) for number in range(first, min(first + CALL, events))]).encode()


def event(number: int) -> dict[str, object]:
    """About 200 bytes; 1,000 subjects over a day."""
    return {
        "specversion": "1.0",
        "id": f"{number:012d}",
        "source": "bench",
        "type": "bench.request",
        "subject": f"customer-{number % 1000:04d}",
        "time": f"2026-10-15T{number % 24:02d}:{number % 60:02d}:00Z",
        "data": {"tokens": number % 997, "model": "small"},
    }


async def _load(url: str, key: str, events: int) -> float:
    work = list(bodies(events))
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/cloudevents-batch+json"}

    async def connection(client: httpx2.AsyncClient) -> None:
        while work:
            response = await client.post("/v1/events", content=work.pop(), headers=headers)
            if response.status_code != 202:
                raise SystemExit(f"{response.status_code}: {response.text[:300]}")

    async with httpx2.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        began = time.perf_counter()
        await asyncio.gather(*(connection(client) for _ in range(CONNECTIONS)))
        return events / (time.perf_counter() - began)


async def log_end(settings: KafkaSettings) -> int:
    """How many records the events topic holds."""
    topic = settings.names.topic(USAGE_EVENTS)
    consumer = AIOKafkaConsumer(**settings.client_arguments())
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in range(USAGE_EVENTS.partitions)]
        return sum((await consumer.end_offsets(partitions)).values())
    finally:
        await consumer.stop()
