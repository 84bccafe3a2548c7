"""A small world to bill: catalogue, prices, and usage that went through Kafka and the aggregator's own code."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import psycopg
from pydantic import SecretStr

from services.aggregator.apply import Aggregator
from services.invoicer.close import CloseReport, Deps, close_month
from services.invoicer.finalize import DatabaseClock
from services.invoicer.price_file import apply_prices
from shared.contracts.messages.event import StampedEvent, encode_event
from shared.contracts.topics import USAGE_EVENTS
from shared.domain.period import Month
from shared.kafka.producer import Producer
from shared.kafka.records import Batch, OffsetRange, Record
from shared.postgres.outbox import OutboxMessage
from shared.postgres.pool import Connection, Database
from shared.runtime.settings import DatabaseSettings
from tests.conftest import Parts
from tests.support.catalogue import apply_document

OCTOBER = Month(2025, 10)
NOON = datetime(2025, 10, 15, 6, 30, tzinfo=UTC)  # in India
AFTER = datetime(2025, 11, 2, 6, 0, tzinfo=UTC)

SELLER = {"name": "Khata Demo Pvt Ltd", "gstin": "29AABCU9603R1ZJ", "address": "Bengaluru", "series": "KH"}
PRICES: list[dict[str, Any]] = [
    {"meter": "context", "per_unit": {"amount": "250.00", "per": 1_000_000}, "description": "Context tokens"},
    {"meter": "generated", "per_unit": {"amount": "1000.00", "per": 1_000_000}, "description": "Generated tokens"},
]
METERS = [
    {
        "id": meter,
        "name": f"{meter} tokens",
        "event_type": "llm.request",
        "aggregation": "sum",
        "value_path": meter,
        "unit": "token",
    }
    for meter in ("context", "generated")
] + [{"id": "requests", "name": "Requests", "event_type": "llm.request", "aggregation": "count", "billable": False}]


def always(now: datetime) -> DatabaseClock:
    """A database whose clock stands."""

    async def clock(_: Connection) -> datetime:
        return now

    return clock


def organisation(id: str, **more: Any) -> dict[str, Any]:
    """In Karnataka, where the seller is, unless said otherwise."""
    return {"id": id, "name": id.title(), "state_code": "29"} | more


@dataclass
class World:
    """`parts` with a catalogue; `close` and `plant` are what tests do with it."""

    parts: Parts
    database: Database
    deps: Deps
    producer: Producer
    _aggregator: Aggregator
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def close(self, organisations: Sequence[str] | None = None, month: Month = OCTOBER) -> CloseReport:
        return await close_month(self.deps, month, organisations)

    async def prices(self, prices: Sequence[Mapping[str, Any]], seller: Mapping[str, Any] | None = None) -> list[str]:
        """Outcomes of applying them."""
        async with self.database.transaction() as connection:
            return [change.outcome for change in await apply_prices(connection, seller, prices, "test")]

    async def produce(self, organisation_id: str, data: Mapping[str, Any], at: datetime = NOON, **more: Any) -> Record:
        """One live event of the organisation's project in usage.events.v1, which nobody has applied yet."""
        number = next(self._ids)
        values: dict[str, Any] = {
            "id": str(number),
            "source": "test",
            "type": "llm.request",
            "subject": "alice",
            "time": at,
            "project": f"{organisation_id}-app",
            "live": True,
            "ingestedat": at,
            "ingestid": "test",
            "data": msgspec.Raw(json.dumps(data).encode()),
        }
        event = StampedEvent(**(values | more))
        message = OutboxMessage(self.deps.kafka.names.topic(USAGE_EVENTS), b"key", encode_event(event))
        [(partition, offset)] = await self.producer.send([message])
        return Record(message.topic, partition, offset, number, message.key, message.value, ())

    async def apply(self, records: Sequence[Record]) -> None:
        """What the aggregator does with a batch of one partition."""
        start, last = records[0], records[-1]
        moved = OffsetRange(start.topic, start.partition, start.offset, last.offset + 1, last)
        await self._aggregator.apply(Batch(tuple(records), (moved,)))

    async def plant(self, organisation_id: str, context: object, generated: object, at: datetime = NOON) -> None:
        """One event, accepted and aggregated."""
        await self.apply([await self.produce(organisation_id, {"context": context, "generated": generated}, at)])

    def owner(self) -> psycopg.Connection[Any]:
        """As the role that owns the tables: what an operator with every right could do."""
        return psycopg.connect(self.parts.database_url, autocommit=True)

    async def rows(self, query: str, *parameters: Any) -> list[Any]:
        async with self.database.connection() as connection:
            return await (await connection.execute(query.encode(), parameters)).fetchall()


@asynccontextmanager
async def billing(
    parts: Parts,
    *organisations: Mapping[str, Any],
    prices: Sequence[Mapping[str, Any]] = PRICES,
    meters: Sequence[Mapping[str, Any]] = METERS,
    pool_size: int = 5,
    wait_s: float = 10.0,
) -> AsyncIterator[World]:
    """Organisations (default: acme, in the seller's state) with a project `<id>-app` each, meters and prices."""
    customers = list(organisations) or [organisation("acme")]
    await apply_document(
        parts,
        {
            "organisations": customers,
            "projects": [{"id": f"{one['id']}-app", "organisation": one["id"]} for one in customers],
            "meters": list(meters),
        },
    )
    settings = DatabaseSettings(
        database_url=SecretStr(parts.database_url),
        database_pool_size=pool_size,
        database_pool_max_waiting=500,
        database_pool_timeout_s=30.0,
    )
    database = Database(settings, "khata_invoicer", "test")
    aggregating = Database(parts.database, "khata_aggregator", "test")
    producer = Producer(parts.kafka, "test")
    await database.open()
    await aggregating.open()
    try:
        deps = Deps(parts.kafka, database, "test", lambda: AFTER, always(AFTER), wait_s)
        aggregator = Aggregator(aggregating, parts.kafka.names.group("aggregator"))
        world = World(parts, database, deps, producer, aggregator)
        await world.prices(prices, SELLER)
        yield world
    finally:
        await producer.stop()
        await aggregating.close()
        await database.close()
