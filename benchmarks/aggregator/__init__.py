"""The aggregator: from a full log to windows, every total asserted, beside what Postgres alone does with the same.

Each run has a database of its own and begins at the log's beginning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from benchmarks.aggregator.apply import Applied, apply, fresh_database
from benchmarks.aggregator.limits import merge_from_memory, plain_copy
from benchmarks.aggregator.live import gone_on_after_kill, visible_after
from benchmarks.aggregator.load import Load, fill_log
from benchmarks.figure import Figure
from benchmarks.stack import BenchParts
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


def measure(parts: BenchParts, report: Callable[[str], None]) -> list[Figure]:
    for load in (FEW, MANY):
        report(f"filling the log: {load.records:,} records of {load.subjects:,} subjects")
        asyncio.run(topics.apply(replace(parts, prefix=load.prefix).kafka, dev=True))
        asyncio.run(fill_log(replace(parts, prefix=load.prefix), load))
    figures = []
    for what, load, processes, meters, target in RUNS:
        report(f"applying: {what}")
        with fresh_database(parts, load, meters) as mine:
            merged = merge_from_memory(mine, load.subjects)
            applied = apply(mine, load, processes, meters)
        figures.append(
            Figure(
                what,
                [applied.rate],
                target=target,
                limit="the same merge from memory, one connection",
                limit_runs=[merged],
                note=f"{applied.python_us:.1f} us Python, {applied.postgres_us:.1f} us Postgres",
            )
        )
        if (load, processes) == (FEW, 2) and meters == 1:
            figures += _details(applied)
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


def _details(applied: Applied) -> list[Figure]:
    return [
        Figure("  processor time", [applied.cpu_s_per_million], "CPU s/million", target=11, less_is_better=True),
        Figure("  transaction, median", [applied.batch_ms], "ms", target=150, less_is_better=True),
        Figure("  stored", [applied.bytes], "bytes/event", target=150, less_is_better=True),
        Figure("  memory", [applied.memory_mb], "MB", target=400, less_is_better=True),
    ]
