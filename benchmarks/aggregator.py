"""The aggregator: from a full log to windows, totals asserted; the limit is a plain COPY of the same events.

Events already in the log are applied by one process; the clock runs from its first to its last batch.
"""

from __future__ import annotations

import asyncio
import sys
import time
from decimal import Decimal

import psycopg

from benchmarks.ingest import event, log_end
from benchmarks.stack import BenchParts, Figure
from devstack.home import Home
from devstack.supervisor import ServiceSpec, Supervisor


def measure(parts: BenchParts, events: int) -> list[Figure]:
    total = asyncio.run(log_end(parts.kafka))
    limit_rate = _plain_copy(parts, events)
    port = Home.at(parts.home).ports(("aggregator",))["aggregator"]
    spec = ServiceSpec(
        "aggregator",
        (sys.executable, "-m", "cli", "run", "aggregator"),
        parts.env | {"METRICS_PORT": str(port)},
        f"http://127.0.0.1:{port}/readyz",
    )
    with (
        Supervisor(parts.home, report=lambda _: None) as supervisor,
        psycopg.connect(parts.database_url, autocommit=True) as connection,
    ):
        supervisor.start([spec])
        first, began = _wait_applied(connection, 1)
        last, ended = _wait_applied(connection, total)
        rate = (last - first) / (ended - began)
        _assert_totals(connection, events)
    return [Figure("aggregator, one process, 1,000 subjects", rate, "plain COPY of the same events", limit_rate)]


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
