"""Reconciliation: a full log and what the aggregator made of it, held against each other; each pass by itself.

Events are sent with receipts, as ingest does; one aggregator applies them. The limit is the same records read for
nobody. Exit 1 when anything is found.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from statistics import median

import psycopg
from pydantic import SecretStr

from benchmarks.aggregator.apply import wait_applied
from benchmarks.aggregator.load import fill_log
from benchmarks.catalogue import apply_bench_catalogue
from benchmarks.figure import Figure
from benchmarks.ingest.events import FIRST, event
from benchmarks.ingest.log import log_end
from benchmarks.stack import BenchParts, running
from services.aggregator.reconcile import collector, log
from services.aggregator.reconcile.log_pass import Stretch, compare_partition
from services.aggregator.reconcile.offset_pass import conserve
from services.aggregator.reconcile.receipts import Tally, told
from services.aggregator.reconcile.record import Period
from services.aggregator.reconcile.run import ReconcileSettings, reconcile
from services.aggregator.reconcile.window_pass import compare_windows
from services.ingest.receipts import Receipts
from shared.contracts.topics import USAGE_EVENTS
from shared.kafka import rewind
from shared.kafka.scan import scan
from shared.postgres.pool import Database

EVENTS = 200_000
RUNS, MANY = 3, 1_000_000  # of so many events one run says enough
LOG_TARGET = 300_000


def measure(parts: BenchParts, report: Callable[[str], None], events: int = EVENTS) -> list[Figure]:
    asyncio.run(apply_bench_catalogue(parts))
    report(f"filling the log with {events:,} events")
    receipts = Receipts("bench", parts.usage_topic)
    asyncio.run(fill_log(parts, map(event, range(events)), receipts))
    total = asyncio.run(log_end(parts.kafka))
    report("applying")
    with running(parts, "cli", "run", "aggregator"), psycopg.connect(parts.database_url, autocommit=True) as connection:
        wait_applied(connection, parts, total)
    report("reconciling")
    return asyncio.run(_measure(parts))


async def _measure(parts: BenchParts) -> list[Figure]:
    settings = ReconcileSettings(kafka_bootstrap_servers=parts.bootstrap, database_url=SecretStr(parts.database_url))
    topic = settings.names.topic(USAGE_EVENTS)
    now = datetime.now(UTC)
    period = Period(FIRST - timedelta(hours=1), now + timedelta(hours=2))  # the events' hours, and their arrival
    database = Database(settings, "khata_aggregator", "bench")
    await database.open()
    try:
        bounds = await rewind.log_bounds(settings, [topic])
        records = sum(end - start for start, end in bounds.values())
        ranges = {partition.partition: bound for partition, bound in bounds.items()}
        receipts = told(await log.receipts_since(settings, period.start), topic)
        rates: dict[str, list[float]] = {}
        cpu_us: dict[str, list[float]] = {}

        async def timed(what: str, work: Callable[[], object]) -> None:
            began, spent = time.perf_counter(), time.process_time()
            found = work()
            assert asyncio.iscoroutine(found)
            await found
            rates.setdefault(what, []).append(records / (time.perf_counter() - began))
            cpu_us.setdefault(what, []).append((time.process_time() - spent) / records * 1e6)

        async def hand_out() -> None:
            for partition, (start, end) in bounds.items():
                with collector.aside():
                    async for _ in scan(settings, partition, start, end):
                        pass

        async def log_pass() -> None:
            for partition, (start, end) in bounds.items():
                stretch = Stretch(partition, start, end, start, end, start, end)
                mine = [one for one in receipts.stretches if one.partition == partition.partition]
                with collector.aside():
                    found, _ = await compare_partition(
                        settings, database, stretch, Tally(mine), "khata.aggregator", _nobody
                    )
                _nothing(found.total)

        async def offsets() -> None:
            _nothing(
                (
                    await conserve(
                        database, topic, settings.names.group("aggregator"), ranges, [1], period.start, _nobody
                    )
                ).findings.total
            )

        async def windows() -> None:
            found = await compare_windows(database, topic, [(period.start, FIRST + timedelta(days=14))], None, _nobody)
            _nothing(found.findings.total + records - found.events)

        async def whole() -> None:
            _nothing((await reconcile(settings, database, "manual", period)).findings.total)

        for _ in range(RUNS if records < MANY else 1):
            await timed("limit", hand_out)
            await timed("receipts and log against archive", log_pass)
            await timed("conservation and identities", offsets)
            await timed("archive folded against windows", windows)
            await timed("all of it", whole)
    finally:
        await database.close()
    limit = rates.pop("limit")
    name = "the log read for nobody"
    return [
        Figure(
            what,
            runs,
            target=LOG_TARGET if "log" in what else None,
            limit=name,
            limit_runs=limit,
            note=f"CPU {median(cpu_us[what]):.1f} us an event; reading alone {median(cpu_us['limit']):.1f}",
        )
        for what, runs in rates.items()
    ]


def _nobody(count: int) -> None:
    """Nobody watches."""


def _nothing(findings: int) -> None:
    if findings:
        raise SystemExit(f"{findings} findings where nothing is wrong")
