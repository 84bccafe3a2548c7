"""The log that is applied: stamped by ingest's own code, with repetitions and contradictions, totals known.

Of 1,000 records 10 are exact repetitions, half of them of an event just before, half of one 60,000 before, and one
says something else under an identity that is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

import msgspec

from benchmarks.catalogue import PROJECT
from benchmarks.ingest.events import FIRST
from benchmarks.stack import BenchParts
from services.ingest.accept import message
from services.ingest.receipts import Receipts
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


def stamped(parts: BenchParts, events: Iterable[dict[str, object]]) -> Iterator[OutboxMessage]:
    """As ingest would send them now."""
    clock, sender = Clock(datetime.now(UTC), timedelta(days=400)), Sender(PROJECT, True)
    for event in events:
        envelope = read_envelope(msgspec.json.encode(event))
        yield message(stamp(envelope, sender, METERS, clock, "bench", 1), parts.kafka.names)


async def fill_log(parts: BenchParts, events: Iterable[dict[str, object]], receipts: Receipts | None = None) -> None:
    """Send them all, with receipts where they are asked for."""
    producer = FastProducer(parts.kafka, "bench", receipts)
    await producer.start()
    messages = stamped(parts, events)
    while some := list(islice(messages, SLICE)):
        await producer.send(some)
    if receipts is not None:
        await receipts.finish(producer, parts.kafka.names)
    await producer.stop()
