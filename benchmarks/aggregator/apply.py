"""Apply one log with so many processes, and see that nothing of it is wrong."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import httpx2 as httpx
import psutil
import psycopg

from benchmarks.aggregator.load import Load
from benchmarks.catalogue import apply_bench_catalogue
from benchmarks.stack import BenchParts, Running, running
from devstack.postgres import create_database, drop_database
from shared.postgres.migrate import migrate

STEADY = 0.15  # of the records, at either end, are not timed: processes start, and the last batches are small


@dataclass(frozen=True, slots=True)
class Applied:
    """Processor time (`_us`) is for a record; `batch_ms` is the median of applying one batch."""

    rate: float
    python_us: float
    postgres_us: float
    batch_ms: float
    bytes: float
    memory_mb: float

    @property
    def cpu_s_per_million(self) -> float:
        return self.python_us + self.postgres_us


@contextmanager
def fresh_database(parts: BenchParts, load: Load, meters: int, template: str | None = None) -> Iterator[BenchParts]:
    """A database of its own with one catalogue, else empty or a copy; the topics are the load's."""
    name = f"bench_{uuid4().hex[:8]}"
    mine = replace(parts, database_url=create_database(parts.database_url, name, template), prefix=load.prefix)
    migrate(mine.database_url)
    asyncio.run(apply_bench_catalogue(mine, meters))
    try:
        yield mine
    finally:
        drop_database(parts.database_url, name)


def apply(parts: BenchParts, load: Load, processes: int, meters: int = 1, filters: Path | None = None) -> Applied:
    """Everything in the log, from the beginning. SystemExit when a total is wrong."""
    folder = {"AGGREGATOR_FILTER_DIR": str(filters)} if filters else {}
    with ExitStack() as stack:
        connection = stack.enter_context(psycopg.connect(parts.database_url, autocommit=True))
        server = psutil.Process(parts.postgres_pid)
        members = [
            stack.enter_context(
                running(
                    parts,
                    "cli",
                    "run",
                    "aggregator",
                    name=f"aggregator-{number}",
                    KHATA_INSTANCE=f"bench-{number}",
                    **folder,
                )
            )
            for number in range(processes)
        ]
        first, began = wait_applied(connection, parts, int(load.records * STEADY))
        spent = [member.cpu_s() for member in members], cpu_of(server)
        last, ended = wait_applied(connection, parts, int(load.records * (1 - STEADY)))
        python = sum(member.cpu_s() for member in members) - sum(spent[0])
        postgres = cpu_of(server) - spent[1]
        wait_applied(connection, parts, load.records)
        _assert_totals(connection, load, meters)
        batches = [_median_batch_ms(member, parts) for member in members]
        return Applied(
            rate=(last - first) / (ended - began),
            python_us=python / (last - first) * 1e6,
            postgres_us=postgres / (last - first) * 1e6,
            batch_ms=max(batches),
            bytes=_stored_bytes(connection) / load.records,
            memory_mb=max(member.memory_mb for member in members),
        )


def wait_applied(connection: psycopg.Connection, parts: BenchParts, wanted: int) -> tuple[int, float]:
    while True:
        row = connection.execute(
            "SELECT coalesce(sum(next_offset), 0)::bigint FROM messaging.consumer_offset WHERE topic = %s",
            (parts.usage_topic,),
        ).fetchone()
        if row is not None and row[0] >= wanted:
            return int(row[0]), time.perf_counter()
        time.sleep(0.005)


def cpu_of(server: psutil.Process) -> float:
    """Of the server and all its processes, those that ended too."""
    own = server.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in server.children():
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def _assert_totals(connection: psycopg.Connection, load: Load, meters: int) -> None:
    found = {
        "windows": "SELECT sum(count)::bigint, sum(sum) FROM usage.window WHERE meter_id = 'bench_sum'",
        "identities": """
            SELECT count(*), true FROM usage.identity WHERE generation = (SELECT max(id) FROM usage.generation)
        """,
        "conflicts": "SELECT count(*), true FROM usage.conflict",
        "archive": "SELECT sum(record_count)::bigint, true FROM usage.segment",
        "duplicates": """
            SELECT sum(record_count - length(replace(encode(dispositions, 'escape'), 'd', '')))::bigint, true
            FROM usage.segment
        """,
    }
    wanted: dict[str, tuple[object, object]] = {
        "windows": (load.events, Decimal(load.total)),
        "identities": (load.events, True),
        "conflicts": (load.contradicted, True),
        "archive": (load.records, True),
        "duplicates": (load.repeated, True),
    }
    if meters > 1:
        found["counts"] = "SELECT sum(count)::bigint, sum(sum) FROM usage.window WHERE meter_id = 'bench_count'"
        wanted["counts"] = (load.events, Decimal(load.events))
    for what, query in found.items():
        row = connection.execute(query.encode()).fetchone()
        if row != wanted[what]:
            raise SystemExit(f"{what}: {row}, but sent were {wanted[what]}")


def _stored_bytes(connection: psycopg.Connection) -> float:
    row = connection.execute(
        """
        SELECT sum(pg_total_relation_size(leaf.relid))::bigint
        FROM unnest(ARRAY['usage.window', 'usage.identity', 'usage.segment']::regclass[]) AS parent (id)
        CROSS JOIN LATERAL pg_partition_tree(parent.id) AS leaf
        """
    ).fetchone()
    assert row is not None
    return float(row[0])


def _median_batch_ms(member: Running, parts: BenchParts) -> float:
    """From the histogram, straight between its bounds."""
    group = re.escape(parts.kafka.names.group("aggregator"))
    text = httpx.get(member.metrics_url).text
    pattern = rf'khata_consumer_batch_seconds_bucket{{group="{group}",le="([^"]+)"}} ([0-9.]+)'
    bounds = [(0.0, 0.0), *((float(le), float(count)) for le, count in re.findall(pattern, text))]
    half = bounds[-1][1] / 2
    for (low, before), (high, upto) in pairwise(bounds):
        if upto >= half:
            return (low + (high - low) * (half - before) / max(upto - before, 1)) * 1e3
    raise AssertionError("the last bucket holds all")
