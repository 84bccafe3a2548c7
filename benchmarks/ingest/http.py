"""The HTTP door: calls of 100 events and of one, answered after all acks; beside it the same door without Kafka.

What was answered with 202 is held against the log's end: all of it must be there, and no more than was still on its
way when the load stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.ingest.events import bodies, write_lines
from benchmarks.ingest.log import log_end
from benchmarks.ingest.wrk import BATCH, ONE, Load, load
from benchmarks.stack import BenchParts, Running, running

CALL = 100
RUNS, SECONDS = 3, 8
WITHOUT = "the same door without Kafka"


def measure(parts: BenchParts, key: str) -> list[Figure]:
    """Both doors stand side by side, so that the limit is of the same minutes."""
    with (
        running(parts, "cli", "run", "ingest") as door,
        running(parts, "benchmarks.ingest.limit_door") as limit,
    ):
        shapes = (Shape(parts.home, key, CALL, 16, BATCH), Shape(parts.home, key, 1, 64, ONE))
        figures = []
        for shape in shapes:
            shape.warm_up(door, limit)
            runs = [(shape.checked(parts, door), shape.on(limit)) for _ in range(RUNS)]
            figures.append(_figure(shape, [one for one, _ in runs], [other for _, other in runs]))
        calm = [shapes[0].checked(parts, door, rate=0.7 * figures[0].value / CALL) for _ in range(RUNS)]
        figures.append(
            Figure(
                f"p99 at 70 % of that rate, calls of {CALL}",
                [one.p99_ms for one in calm],
                "ms",
                50,
                less_is_better=True,
                note=f"{calm[0].rate * CALL:,.0f} events/s, p50 {calm[0].p50_ms:.1f} ms",
            )
        )
        figures.append(Figure("memory of the process after that", [door.memory_mb], "MB", 250, less_is_better=True))
    return figures


class Shape:
    """One form of load."""

    def __init__(self, home: Path, key: str, call: int, connections: int, content_type: str) -> None:
        self.call, self.connections, self._key, self._type = call, connections, key, content_type
        self._bodies = write_lines(home / f"bodies-{call}", bodies(call))

    def on(self, door: Running, *, seconds: int = SECONDS, rate: float | None = None) -> Load:
        return load(
            door.url,
            self._key,
            self._bodies,
            content_type=self._type,
            connections=self.connections,
            seconds=seconds,
            rate=rate,
        )

    def warm_up(self, *doors: Running) -> None:
        for door in doors:
            self.on(door, seconds=1)

    def checked(self, parts: BenchParts, door: Running, *, rate: float | None = None) -> Load:
        """Raises SystemExit when the log does not hold what was answered."""
        with log_grows(parts) as grown:
            done = self.on(door, rate=rate)
        answered, on_their_way = done.calls * self.call, self.connections * self.call
        if not answered <= grown() <= answered + on_their_way:
            raise SystemExit(f"answered {answered} events, the log grew by {grown()}")
        return done


@contextmanager
def log_grows(parts: BenchParts) -> Iterator[Callable[[], int]]:
    """The function tells by how many records the events topic grew, once the block is left."""
    before = asyncio.run(log_end(parts.kafka))
    found: list[int] = []
    yield lambda: found[0]
    found.append(asyncio.run(log_end(parts.kafka)) - before)


def _figure(shape: Shape, runs: list[Load], limits: list[Load]) -> Figure:
    single = shape.call == 1
    what = "HTTP, single events" if single else f"HTTP, calls of {shape.call}"
    return Figure(
        f"{what}, {shape.connections} connections, after all acks",
        [one.rate * shape.call for one in runs],
        "events/s",
        10_000 if single else 120_000,
        limit=WITHOUT,
        limit_runs=[one.rate * shape.call for one in limits],
        note=f"p50 {runs[0].p50_ms:.1f}, p99 {runs[0].p99_ms:.1f} ms",
    )
