"""The spool: what it accepts with an fsync while Kafka does not answer, and how fast that leaves it afterwards.

Kafka is frozen (SIGSTOP) for the first and goes on for the second. All that was answered with 202 must be in the log.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.figure import Figure
from benchmarks.ingest.http import CALL, RUNS, WITHOUT, Shape
from benchmarks.ingest.log import log_end
from benchmarks.ingest.wrk import BATCH, Load
from benchmarks.stack import BenchParts, Running, running

SECONDS = 8
LONG_EVENTS = 5_000_000
ALONGSIDE_CALLS_S = 100.0  # calls a second that go on being accepted meanwhile
DRAIN_DEADLINE_S = 600.0


def measure(parts: BenchParts, key: str, report: Callable[[str], None]) -> list[Figure]:
    shape = Shape(parts.home, key, CALL, 16, BATCH)
    settings = {
        "SPOOL_PATH": str(parts.home / "spool.sqlite3"),
        "INGEST_ACCEPT": "spool",
        "SPOOL_CAP_BYTES": str(8 << 30),
    }
    with (
        running(parts, "cli", "run", "ingest", **settings) as door,
        running(parts, "benchmarks.ingest.limit_door") as limit,
    ):
        shape.warm_up(door, limit)
        accepted, limits, forwarded = [], [], []
        for _ in range(RUNS):
            before = _end(parts)
            with frozen(parts.kafka_pid):
                load = shape.on(door, seconds=SECONDS)
            accepted.append(load)
            forwarded.append(_drained(parts, shape, load, before))
            limits.append(shape.on(limit, seconds=SECONDS).rate * CALL)
        figures = [
            Figure(
                f"spool with fsync, calls of {CALL}, 16 connections",
                [one.rate * CALL for one in accepted],
                target=100_000,
                limit=WITHOUT,
                limit_runs=limits,
                note=f"p50 {accepted[0].p50_ms:.1f}, p99 {accepted[0].p99_ms:.1f} ms",
            ),
            Figure("spool to Kafka, nothing else to do", forwarded, target=50_000),
        ]
        report(f"spool: {LONG_EVENTS:,} events")
        return [*figures, *_long(parts, shape, door)]


def _long(parts: BenchParts, shape: Shape, door: Running) -> list[Figure]:
    """Five million wait; they leave while others come in."""
    before, answered = _end(parts), 0
    with frozen(parts.kafka_pid):
        while answered < LONG_EVENTS:
            answered += shape.on(door, seconds=10).calls * CALL
    stop, alongside = threading.Event(), []

    def go_on() -> None:
        while not stop.is_set():
            alongside.append(shape.on(door, seconds=5, rate=ALONGSIDE_CALLS_S))

    others = threading.Thread(target=go_on)
    others.start()
    began = time.perf_counter()
    _wait(parts, before + LONG_EVENTS)
    took = time.perf_counter() - began
    stop.set()
    others.join()
    _wait(parts, before + answered + sum(load.calls for load in alongside) * CALL)
    peak = max(load.p99_ms for load in alongside)
    return [
        Figure(
            f"{LONG_EVENTS:,} events out of the spool while others come in",
            [LONG_EVENTS / took],
            target=50_000,
            note=f"{ALONGSIDE_CALLS_S * CALL:,.0f} events/s accepted meanwhile, their p99 {peak:.0f} ms",
        ),
        Figure("memory of the process after that", [door.memory_mb], "MB", 250, less_is_better=True),
    ]


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """The process takes no step; its sockets stay open."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _drained(parts: BenchParts, shape: Shape, load: Load, before: int) -> float:
    """Events a second, from the moment Kafka goes on until it has them all."""
    answered = load.calls * CALL
    began = time.perf_counter()
    _wait(parts, before + answered)
    rate = answered / (time.perf_counter() - began)
    time.sleep(1)  # calls that were on their way when the load stopped
    if _end(parts) > before + answered + shape.connections * CALL:
        raise SystemExit(f"answered {answered} events, the log grew by {_end(parts) - before}")
    return rate


def _wait(parts: BenchParts, wanted: int) -> None:
    deadline = time.monotonic() + DRAIN_DEADLINE_S
    while _end(parts) < wanted:
        if time.monotonic() > deadline:
            raise SystemExit(f"the log holds {_end(parts)} records, {wanted} should be there")
        time.sleep(0.05)


def _end(parts: BenchParts) -> int:
    return asyncio.run(log_end(parts.kafka))
