"""With events coming in: how soon they are seen, and how soon others go on when a process is killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import httpx2 as httpx
import psycopg

from benchmarks.aggregator.apply import fresh_database
from benchmarks.aggregator.load import Load, stamped
from benchmarks.stack import BenchParts
from devstack.home import Home
from shared.kafka import topics
from shared.kafka.fast_producer import FastProducer
from shared.postgres.outbox import OutboxMessage

SECONDS = 10
SLICES = 20  # of a second's events
PROBES = 10  # of a second
SETTLE_S = 2.0  # not measured: the processes start
FAST_S = 0.01


def visible_after(parts: BenchParts, rate: int) -> list[float]:
    """ms from the ack of each probe until its window is there, while `rate` events a second come in."""
    load = Load(rate * SECONDS, 1_000, "live.")
    with _running(parts, load, 1) as (mine, _):
        return asyncio.run(_visible_after(mine, load, rate))


async def _visible_after(parts: BenchParts, load: Load, rate: int) -> list[float]:
    messages = list(stamped(parts, load.sent()))
    probes = [replace(load, prefix=f"probe-{number}-", events=1, subjects=1) for number in range(SECONDS * PROBES)]
    alone = list(stamped(parts, (probe.event(0) | {"subject": f"probe-{n}"} for n, probe in enumerate(probes))))
    producer, acked, delays = FastProducer(parts.kafka, "bench"), dict[str, float](), list[float]()
    await producer.start()
    done = asyncio.Event()

    async def send(what: list[OutboxMessage], slices: int) -> None:
        step, began = max(1, len(what) // slices), time.perf_counter()
        for number in range(slices):
            await asyncio.sleep(max(0.0, began + number * SECONDS / slices - time.perf_counter()))
            await producer.send(what[number * step : (number + 1) * step])
            if what is alone:
                acked[f"probe-{number}"] = time.perf_counter()

    async def watch() -> None:
        connection = await psycopg.AsyncConnection.connect(parts.database_url, autocommit=True)
        async with connection:
            while not done.is_set() or acked:
                rows = await connection.execute(
                    "SELECT DISTINCT subject FROM usage.window WHERE subject = ANY(%s) AND project_id = 'bench-app'",
                    (list(acked),),
                )
                now = time.perf_counter()
                delays.extend((now - acked.pop(subject)) * 1e3 for (subject,) in await rows.fetchall())
                await asyncio.sleep(FAST_S)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(SETTLE_S)
    await asyncio.gather(send(messages, SECONDS * SLICES), send(alone, SECONDS * PROBES))
    done.set()
    await asyncio.wait_for(watching, 60)
    await producer.stop()
    assert len(delays) == len(alone), "every probe was seen"
    return sorted(delays)


def gone_on_after_kill(parts: BenchParts) -> tuple[float, float]:
    """Seconds until every partition moves again: when one of two is killed for good, and when one is started anew."""
    load = Load(1_000 * 60, 1_000, "killed.")
    with _running(parts, load, 2) as (mine, members):
        return asyncio.run(_gone_on_after_kill(mine, load, members))


async def _gone_on_after_kill(parts: BenchParts, load: Load, members: list[Member]) -> tuple[float, float]:
    messages = list(stamped(parts, load.sent()))
    producer = FastProducer(parts.kafka, "bench")
    await producer.start()

    async def traffic() -> None:
        for first in range(0, len(messages), 50):
            await producer.send(messages[first : first + 50])
            await asyncio.sleep(0.05)

    sending = asyncio.create_task(traffic())
    connection = await psycopg.AsyncConnection.connect(parts.database_url, autocommit=True)
    async with connection:
        await _all_move(connection, parts)
        while not all(member.has_partitions() for member in members):
            await asyncio.sleep(0.1)
        members[0].process.kill()
        taken_over = await _all_move(connection, parts)
        members[1].process.kill()
        members[1].process.wait()
        members.append(_start(parts, 1))
        restarted = await _all_move(connection, parts)
    sending.cancel()
    await asyncio.wait([sending])
    await producer.stop()
    return taken_over, restarted


async def _all_move(connection: psycopg.AsyncConnection, parts: BenchParts) -> float:
    """Seconds until every partition has a higher offset than now."""

    async def positions() -> dict[int, int]:
        rows = await connection.execute(
            "SELECT partition, next_offset FROM messaging.consumer_offset WHERE topic = %s", (parts.usage_topic,)
        )
        return dict(await rows.fetchall())

    count = await topics.partitions_of(parts.kafka, parts.usage_topic)
    began, before = time.perf_counter(), await positions()
    async with asyncio.timeout(60):
        while True:
            now = await positions()
            if all(now.get(partition, 0) > before.get(partition, 0) for partition in range(count)):
                return time.perf_counter() - began
            await asyncio.sleep(FAST_S)


@contextmanager
def _running(parts: BenchParts, load: Load, processes: int) -> Iterator[tuple[BenchParts, list[Member]]]:
    """So many aggregators; what is in the list at the end is ended."""
    asyncio.run(topics.apply(replace(parts, prefix=load.prefix).kafka, dev=True))
    with ExitStack() as stack:
        mine = stack.enter_context(fresh_database(parts, load, 1))
        members = [_start(mine, number) for number in range(processes)]
        try:
            yield mine, members
        finally:
            for member in members:
                member.process.terminate()
            for member in members:
                member.process.wait()


@dataclass(frozen=True, slots=True)
class Member:
    """One aggregator."""

    process: subprocess.Popen[bytes]
    metrics_url: str
    group: str

    def has_partitions(self) -> bool:
        try:
            text = httpx.get(self.metrics_url).text
        except httpx.TransportError:
            return False  # it has only just been started
        return f'khata_consumer_lag_records{{group="{self.group}"' in text


def _start(parts: BenchParts, number: int) -> Member:
    [port] = Home.at(parts.home).ports((f"live-{number}-metrics",)).values()
    env = parts.env | {"KHATA_INSTANCE": f"live-{number}", "METRICS_PORT": str(port), "LOG_LEVEL": "ERROR"}
    process = subprocess.Popen([sys.executable, "-m", "cli", "run", "aggregator"], env=os.environ | env)
    return Member(process, f"http://127.0.0.1:{port}/metrics", parts.kafka.names.group("aggregator"))
