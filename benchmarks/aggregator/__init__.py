"""The aggregator: from a full log to windows, every total asserted, beside what Postgres alone does with the same.

Each run has a database of its own and begins at the log's beginning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.aggregator.apply import Applied, apply, fresh_database
from benchmarks.aggregator.limits import merge_from_memory, plain_copy
from benchmarks.aggregator.live import gone_on_after_kill, visible_after
from benchmarks.aggregator.load import Load, fill_log
from benchmarks.figure import Figure
from benchmarks.generations import fill, opened
from benchmarks.stack import BenchParts
from services.aggregator.generations.filters import Filters
from shared.kafka import topics

EVENTS = 500_000
HALF = 0.5
FEW = Load(EVENTS, 1_000, "few.")
MANY = Load(EVENTS, EVENTS, "many.")
# (what, load, processes, meters, target in events/s)
RUNS = (
    ("one process, 1,000 subjects", FEW, 1, 1, 100_000),
    ("two processes, 1,000 subjects", FEW, 2, 1, 150_000),
    ("two meters, two processes, 1,000 subjects", FEW, 2, 2, 130_000),
    ("one process, own subject", MANY, 1, 1, 55_000),
    ("two processes, own subject", MANY, 2, 1, 90_000),
    ("two meters, two processes, own subject", MANY, 2, 2, 60_000),
)


def measure(parts: BenchParts, report: Callable[[str], None], standing: int = 0) -> list[Figure]:
    """`standing`: run also with so many identities there already."""
    for load in (FEW, MANY):
        report(f"filling the log: {load.records:,} records of {load.subjects:,} subjects")
        asyncio.run(topics.apply(replace(parts, prefix=load.prefix).kafka, dev=True))
        asyncio.run(fill_log(replace(parts, prefix=load.prefix), load.sent()))
    figures = []
    for what, load, processes, meters, target in RUNS:
        report(f"applying: {what}")
        with fresh_database(parts, load, meters) as mine:
            merged = merge_from_memory(mine, load.subjects)
            applied = apply(mine, load, processes, meters)
        figures.append(_rate(what, applied, target, merged))
        if (load, processes, meters) == (FEW, 2, 1):
            figures += _details(applied)
    if standing:
        figures += _with_standing(parts, report, standing)
    report("with events coming in")
    delays = visible_after(parts, int(HALF * figures[0].value))
    figures.append(
        Figure(
            "ack to visible window at half the rate, 99 of 100",
            [delays[int(len(delays) * 0.99)]],
            "ms",
            target=1_000,
            less_is_better=True,
            note=f"median {delays[len(delays) // 2]:.0f}",
        )
    )
    report("killing")
    taken_over, restarted = gone_on_after_kill(parts)
    figures.append(
        Figure("one of two killed: all partitions move again", [taken_over], "s", target=10, less_is_better=True)
    )
    figures.append(Figure("killed and started anew: the same", [restarted], "s", target=1, less_is_better=True))
    figures.append(Figure("plain COPY of such rows", [plain_copy(parts)]))
    return figures


def _with_standing(parts: BenchParts, report: Callable[[str], None], keys: int) -> list[Figure]:
    """Two processes, with so many identities in closed generations behind filters."""
    filters, figures = parts.home / "filters", []
    with fresh_database(parts, FEW, 1) as full:
        asyncio.run(_fill(full, filters, report, keys))
        template = urlsplit(full.database_url).path.removeprefix("/")
        for what, load, target in (("1,000 subjects", FEW, 120_000), ("own subject", MANY, 75_000)):
            report(f"applying: {keys:,} identities there, {what}")
            with fresh_database(parts, load, 1, template) as mine:
                merged = merge_from_memory(mine, load.subjects)
                applied = apply(mine, load, 2, filters=filters)
            figures.append(_rate(f"two processes, {keys:,} identities there, {what}", applied, target, merged))
    return figures


async def _fill(parts: BenchParts, folder: Path, report: Callable[[str], None], keys: int) -> None:
    generations = -(-keys // 20_000_000)
    async with opened(parts) as database:
        await fill(parts, database, Filters(folder), report, keys // generations, generations)


def _rate(what: str, applied: Applied, target: float, merged: float) -> Figure:
    return Figure(
        what,
        [applied.rate],
        target=target,
        limit="the same merge from memory, one connection",
        limit_runs=[merged],
        note=f"{applied.python_us:.1f} us Python, {applied.postgres_us:.1f} us Postgres",
    )


def _details(applied: Applied) -> list[Figure]:
    return [
        Figure("  processor time", [applied.cpu_s_per_million], "CPU s/million", target=11, less_is_better=True),
        Figure("  transaction, median", [applied.batch_ms], "ms", target=150, less_is_better=True),
        Figure("  stored", [applied.bytes], "bytes/event", target=150, less_is_better=True),
        Figure("  memory", [applied.memory_mb], "MB", target=400, less_is_better=True),
    ]
