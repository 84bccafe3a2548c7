"""Events and batches as the aggregator gets them, without a broker."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from pydantic import SecretStr

from services.aggregator.apply import Aggregator
from shared.catalogue.apply import apply_catalogue
from shared.catalogue.backfill import Events
from shared.catalogue.file import parse_catalogue
from shared.contracts.messages.event import StampedEvent, encode_event
from shared.contracts.topics import USAGE_EVENTS
from shared.domain.period import Month
from shared.kafka.producer import Producer
from shared.kafka.records import Batch, OffsetRange, Record
from shared.postgres.pool import Connection, Database, Role
from shared.runtime.settings import DatabaseSettings, KafkaSettings
from shared.usage.read import StoredSegment, segments
from shared.usage.seal import Cut, seal
from tests.support.catalogue import DOCUMENT
from tests.support.services import peppers

NOON = datetime(2026, 10, 15, 6, 30, tzinfo=UTC)  # in India
NOWHERE = KafkaSettings(kafka_bootstrap_servers="127.0.0.1:1")
TOPIC = USAGE_EVENTS.name


def stamped(id: str, tokens: object = 1, **more: Any) -> bytes:
    """One event of usage.events.v1; `tokens` is its data unless `data` is given (bytes go as they are)."""
    data = more.pop("data", {"tokens": tokens})
    values: dict[str, Any] = {
        "id": id,
        "source": "test",
        "type": "api.request",
        "subject": "alice",
        "time": NOON,
        "project": "acme-app",
        "live": True,
        "ingestedat": NOON,
        "ingestid": "test",
        "data": msgspec.Raw(data if isinstance(data, bytes) else json.dumps(data).encode()),
    }
    return encode_event(StampedEvent(**(values | more)))


def batch(*parts: tuple[int, int, Sequence[bytes | None]], topic: str = TOPIC) -> Batch:
    """A batch of (partition, first offset, values), as the consumer loop makes it."""
    records: list[Record] = []
    ranges: list[OffsetRange] = []
    for partition, first, values in sorted(parts):
        mine = [
            Record(topic, partition, first + index, 1_000 + index, b"key", value, (("h", b"1"),))
            for index, value in enumerate(values)
        ]
        records += mine
        ranges.append(OffsetRange(topic, partition, first, first + len(mine), mine[-1]))
    return Batch(tuple(records), tuple(ranges))


@dataclass
class Counting:
    """An aggregator and what it wrote. `apply` goes on where the partition stands."""

    database: Database
    aggregator: Aggregator
    producer: Producer
    topic: str = TOPIC
    ends: dict[int, int] = field(default_factory=dict)

    async def apply(self, *values: bytes | None, partition: int = 0) -> Batch:
        first = self.ends.get(partition, 0)
        made = batch((partition, first, values), topic=self.topic)
        await self.aggregator.apply(made)
        self.ends[partition] = first + len(values)
        return made

    async def rows(self, query: str, *parameters: Any) -> list[Any]:
        async with self.database.connection() as connection:
            return await (await connection.execute(query.encode(), parameters)).fetchall()

    async def windows(self, *, live: bool = True, subject: str = "alice") -> dict[str, tuple[int, Any]]:
        """(count, sum) per meter."""
        rows = await self.rows(
            "SELECT meter_id, sum(count)::bigint, sum(sum) FROM usage.window WHERE live = %s AND subject = %s "
            "GROUP BY meter_id",
            live,
            subject,
        )
        return {meter: (count, total) for meter, count, total in rows}

    async def dispositions(self, topic: str = TOPIC) -> str:
        return "".join(letter for segment in await self.segments(topic) for _, letter in segment)

    async def segments(self, topic: str = TOPIC) -> list[StoredSegment]:
        async with self.database.transaction() as connection:
            return [segment async for segment in segments(connection, topic)]


async def catalogue_rows(connection: Connection, document: Mapping[str, Any] = DOCUMENT) -> None:
    """The catalogue as `apply` stores it; nobody relays its outbox."""
    file, events = parse_catalogue(dict(document), "test"), Events(TOPIC, "khata.aggregator")
    await apply_catalogue(connection, file, "catalogue.v1", peppers(), "test", events=events)


@asynccontextmanager
async def opened(database_url: str, role: Role) -> AsyncIterator[Database]:
    database = Database(DatabaseSettings(database_url=SecretStr(database_url)), role, "test")
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def counting(
    database_url: str, kafka: KafkaSettings = NOWHERE, group: str = "khata.aggregator"
) -> AsyncIterator[Counting]:
    """An aggregator on a database with the test catalogue; without `kafka` nothing can be sent from its outbox."""
    async with opened(database_url, "khata_catalogue") as database, database.transaction() as connection:
        await catalogue_rows(connection)
    producer = Producer(kafka, "test")
    async with opened(database_url, "khata_aggregator") as database:
        yield Counting(database, Aggregator(database, group), producer)
        await producer.stop()


async def seal_month(
    database_url: str, month: Month, *organisations: str, topic: str = TOPIC, group: str = "khata.aggregator"
) -> Cut:
    """Seal as the invoicer does."""
    async with opened(database_url, "khata_invoicer") as database, database.transaction() as connection:
        return await seal(connection, group, topic, month, organisations)
