"""The aggregator: from a full log to windows, totals asserted; the limit is a plain COPY of the same events.

Events that ingest's own code has stamped and sent are applied by one process; the clock runs from its first to its
last batch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import psycopg

from benchmarks.catalogue import PROJECT, apply_bench_catalogue
from benchmarks.figure import Figure
from benchmarks.ingest.events import event
from benchmarks.ingest.log import log_end
from benchmarks.stack import BenchParts, running
from services.ingest.accept import message
from services.ingest.validate import Clock, Sender, read_envelope, stamp
from shared.domain.meter import Meter, MeterIndex
from shared.kafka.fast_producer import FastProducer

EVENTS = 200_000
SLICE = 10_000
METERS = MeterIndex.of([Meter("bench_sum", 1, "", "bench.request", "sum", "tokens")])


def measure(parts: BenchParts, report: Callable[[str], None]) -> list[Figure]:
    asyncio.run(apply_bench_catalogue(parts))
    report("filling the log")
    asyncio.run(_fill_log(parts))
    total = asyncio.run(log_end(parts.kafka))
    limit_rate = _plain_copy(parts, EVENTS)
    report("applying")
    with (
        running(parts, "cli", "run", "aggregator"),
        psycopg.connect(parts.database_url, autocommit=True) as connection,
    ):
        first, began = _wait_applied(connection, 1)
        last, ended = _wait_applied(connection, total)
        rate = (last - first) / (ended - began)
        _assert_totals(connection, EVENTS)
    limit = "plain COPY of the same events"
    return [Figure("one process, 1,000 subjects", [rate], limit=limit, limit_runs=[limit_rate])]


async def _fill_log(parts: BenchParts) -> None:
    producer = FastProducer(parts.kafka, "bench")
    await producer.start()
    names = parts.kafka.names
    clock, sender = Clock(datetime.now(UTC), timedelta(days=400)), Sender(PROJECT, True)
    for first in range(0, EVENTS, SLICE):
        envelopes = [read_envelope(msgspec.json.encode(event(number))) for number in range(first, first + SLICE)]
        stamped = [stamp(envelope, sender, METERS, clock, "bench", 1) for envelope in envelopes]
        await producer.send([message(one, names) for one in stamped])
    await producer.stop()


def _wait_applied(connection: psycopg.Connection, wanted: int) -> tuple[int, float]:
    while True:
        row = connection.execute(
            "SELECT coalesce(sum(next_offset), 0)::bigint FROM messaging.consumer_offset"
        ).fetchone()
        if row is not None and row[0] >= wanted:
            return int(row[0]), time.perf_counter()
        time.sleep(0.005)


def _assert_totals(connection: psycopg.Connection, events: int) -> None:
    row = connection.execute("SELECT sum(count)::bigint, sum(sum) FROM usage.window").fetchone()
    expected = (events, Decimal(sum(number % 997 for number in range(events))))
    if row != expected:
        raise SystemExit(f"windows hold {row}, sent were {expected}")


def _plain_copy(parts: BenchParts, events: int) -> float:
    rows = [(str(each["id"]), str(each["subject"]), str(each["time"]), "x" * 120) for each in map(event, range(events))]
    with psycopg.connect(parts.database_url) as connection:
        connection.execute("CREATE TABLE public.bench_copy (id text, subject text, time timestamptz, body text)")
        began = time.perf_counter()
        with connection.cursor().copy("COPY public.bench_copy FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        connection.commit()
        rate = events / (time.perf_counter() - began)
        connection.execute("DROP TABLE public.bench_copy")
    return rate
