"""usage.windows.v1 as a reader sees it, against the table; and the parts that publish it, step by step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from services.aggregator.windows.changed import Changed
from services.aggregator.windows.heal import Healer
from services.aggregator.windows.publish import Publisher, Sender
from shared.contracts.messages.window import WindowMessage, decode_window
from shared.contracts.topics import USAGE_EVENTS, USAGE_WINDOWS
from shared.kafka.fast_producer import FastProducer
from shared.runtime.settings import KafkaSettings
from tests.conftest import Parts
from tests.support.kafka import read_topic
from tests.support.usage import Counting, counting

TABLE = """
    SELECT project_id, live, subject, meter_id, meter_version, dimensions, hour,
           revision, count, sum::text, minimum::text, maximum::text, latest_id, latest_value::text, moment::text,
           fingerprint_high, fingerprint_low
    FROM usage.window ORDER BY 1, 2, 3, 4, 5, 6, 7
"""

Line = tuple[Any, ...]


def line(said: WindowMessage) -> Line:
    return (
        *(said.project_id, said.live, said.subject, said.meter_id, said.meter_version, said.dimensions, said.hour),
        *(said.revision, said.count, said.sum, said.minimum, said.maximum, said.latest_id, said.latest_value),
        *(said.moment, *said.fingerprint),
    )


@dataclass
class View:
    """A reader that keeps the highest revision of each window. A revision that comes again must say the same."""

    revisions: dict[bytes, dict[int, WindowMessage]] = field(default_factory=dict)
    last: dict[bytes, int] = field(default_factory=dict)
    partitions: dict[bytes, set[int]] = field(default_factory=dict)
    went_back: int = 0

    def lines(self) -> list[Line]:
        return sorted(line(of[max(of)]) for of in self.revisions.values())

    def take(self, partition: int, key: bytes, value: bytes) -> None:
        said = decode_window(value)
        told = self.revisions.setdefault(key, {})
        assert told.setdefault(said.revision, said) == said, "one revision, two contents"
        self.went_back += said.revision < self.last.get(key, 0)
        self.last[key] = said.revision
        self.partitions.setdefault(key, set()).add(partition)


async def view(parts: Parts) -> View:
    """The topic from its beginning."""
    found = View()
    for record in await read_topic(parts, parts.kafka.names.topic(USAGE_WINDOWS)):
        assert record.key is not None
        assert record.value is not None
        found.take(record.partition, record.key, record.value)
    return found


@dataclass
class Publishing:
    """An aggregator and what publishes its windows. `count.apply` commits; nothing is published by itself."""

    parts: Parts
    count: Counting
    producer: FastProducer
    publisher: Publisher = field(init=False)
    healer: Healer = field(init=False)

    def __post_init__(self) -> None:
        self.healer = self._healer()
        self.forget()

    def sender(self, producer: FastProducer | None = None) -> Sender:
        topic = self.parts.kafka.names.topic(USAGE_WINDOWS)
        return Sender(self.count.database, producer or self.producer, topic, USAGE_WINDOWS.partitions)

    def forget(self, most: int = 10_000) -> None:
        """As a process that was killed after COMMIT, and its successor."""
        changed = Changed(most)
        self.count.aggregator.changed = changed
        self.publisher = Publisher(changed, self.sender(), 0.01)

    async def heal(self) -> None:
        """As the leader would, two looks apart."""
        healer = self._healer()
        for _ in range(2):
            overdue = await healer.look()
            await healer.drain()
            await healer.heal(overdue, asyncio.Event())

    def _healer(self) -> Healer:
        return Healer(self.parts.database, self.parts.kafka.names, self.sender(), 0.0)

    async def table(self) -> list[Line]:
        return await self.count.rows(TABLE)

    async def view(self) -> View:
        return await view(self.parts)


@asynccontextmanager
async def publishing(parts: Parts, kafka: KafkaSettings | None = None) -> AsyncIterator[Publishing]:
    producer = FastProducer(kafka or parts.kafka, "test")
    await producer.start()
    try:
        async with counting(parts.database_url, parts.kafka, parts.kafka.names.group("aggregator")) as count:
            count.topic = parts.kafka.names.topic(USAGE_EVENTS)
            yield Publishing(parts, count, producer)
    finally:
        await producer.stop()
