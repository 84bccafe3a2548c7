"""The log that is applied: stamped by ingest's own code, with repetitions and contradictions, totals known.

Of 1,000 records 10 are exact repetitions, half of them of an event just before, half of one 60,000 before, and one
says something else under an identity that is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from benchmarks.catalogue import PROJECT
from benchmarks.ingest.events import FIRST
from benchmarks.stack import BenchParts
from services.ingest.accept import message
from services.ingest.validate import Clock, Sender, read_envelope, stamp
from shared.domain.meter import Meter, MeterIndex
from shared.kafka.fast_producer import FastProducer
from shared.postgres.outbox import OutboxMessage

SLICE = 10_000
FAR = 60_000
METERS = MeterIndex.of([Meter("bench_sum", 1, "", "bench.request", "sum", "tokens")])


@dataclass(frozen=True, slots=True)
class Load:
    """`events` different ones of `subjects` subjects; `records` is what the log holds of them."""

    events: int
    subjects: int
    prefix: str  # of its topics

    @property
    def repeated(self) -> int:
        return sum(1 for number in range(self.events) if self.again(number) is not None)

    @property
    def contradicted(self) -> int:
        return self.events // 1000

    @property
    def records(self) -> int:
        return self.events + self.repeated + self.contradicted

    @property
    def total(self) -> int:
        return sum(tokens(number) for number in range(self.events))

    def again(self, number: int) -> int | None:
        """Which event is sent once more after this one."""
        if number % 100 != 99:
            return None
        return number - (FAR if number % 200 == 199 and number >= FAR else 30)

    def sent(self) -> Iterator[dict[str, object]]:
        for number in range(self.events):
            yield self.event(number)
            if (repeated := self.again(number)) is not None:
                yield self.event(repeated)
            if number % 1000 == 999:
                yield self.event(number) | {"data": {"tokens": 7_000_000, "model": "small"}}

    def event(self, number: int) -> dict[str, object]:
        return {
            "specversion": "1.0",
            "id": f"{self.prefix}{number:012d}",
            "source": "bench",
            "type": "bench.request",
            "subject": f"customer-{number % self.subjects:06d}",
            "time": (FIRST + timedelta(milliseconds=16 * number)).isoformat(),
            "data": {"tokens": tokens(number), "model": "small"},
        }


def tokens(number: int) -> int:
    return number % 997


def stamped_messages(parts: BenchParts, load: Load, subject: str = "") -> list[OutboxMessage]:
    """All of it, as ingest would send it now."""
    names = parts.kafka.names
    clock, sender = Clock(datetime.now(UTC), timedelta(days=400)), Sender(PROJECT, True)
    return [
        message(stamp(read_envelope(msgspec.json.encode(one)), sender, METERS, clock, "bench", 1), names)
        for one in (each | ({"subject": subject} if subject else {}) for each in load.sent())
    ]


async def fill_log(parts: BenchParts, load: Load) -> None:
    producer = FastProducer(parts.kafka, "bench")
    await producer.start()
    messages = stamped_messages(parts, load)
    for first in range(0, len(messages), SLICE):
        await producer.send(messages[first : first + SLICE])
    await producer.stop()
