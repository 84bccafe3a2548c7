"""Consumer loops on a real broker whose effect is one row per record, in Postgres, with their offsets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg

from shared.kafka import offsets
from shared.kafka.consumer import ConsumerLoop, Limits
from shared.kafka.offsets import StoredOffset
from shared.kafka.records import Batch, Partition
from shared.postgres.pool import Connection, Database
from tests.conftest import Parts
from tests.support.waiting import eventually


def group_of(parts: Parts) -> str:
    """A group of the test's own."""
    return parts.kafka.names.group("aggregator", "test")


@dataclass
class Recorder:
    """Handler that stores every record it applies. `before` runs before its transaction."""

    database: Database
    group: str
    batches: list[Batch] = field(default_factory=list)

    async def stored(self, partitions: Sequence[Partition]) -> Mapping[Partition, StoredOffset | None]:
        async with self.database.connection() as connection:
            return await offsets.stored(connection, self.group, partitions)

    async def apply(self, batch: Batch) -> None:
        self.batches.append(batch)
        await self.before(batch)
        async with self.database.transaction() as connection:
            await offsets.move(connection, self.group, batch.ranges)
            await _record(connection, batch)

    async def before(self, batch: Batch) -> None:
        """What a test makes of it."""

    async def applied(self) -> list[tuple[int, int, bytes]]:
        """(partition, offset, value) of every effect, in log order."""
        async with self.database.connection() as connection:
            return await (
                await connection.execute("SELECT partition, log_offset, value FROM public.applied ORDER BY 1, 2")
            ).fetchall()


async def _record(connection: Connection, batch: Batch) -> None:
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO public.applied VALUES (%s, %s, %s)",
            [(record.partition, record.offset, record.value) for record in batch.records],
        )


def make_table(parts: Parts) -> None:
    """No unique key: an effect that is repeated must be seen."""
    with psycopg.connect(parts.database_url) as owner:
        owner.execute("CREATE TABLE public.applied (partition integer, log_offset bigint, value bytea)")
        owner.execute("GRANT SELECT, INSERT ON public.applied TO khata_aggregator")


@dataclass
class Member:
    """A running loop; `task` ends with what ended it."""

    loop: ConsumerLoop
    task: asyncio.Task[None]
    stop: asyncio.Event

    async def end(self) -> None:
        self.stop.set()
        await asyncio.wait_for(self.task, 15)


@asynccontextmanager
async def member(
    parts: Parts,
    handler: Any,
    topic: str,
    instance: str = "one",
    max_records: int = 5_000,
    max_bytes: int = 16_000_000,
    **more: Any,
) -> AsyncIterator[Member]:
    """A member of the group until the block ends."""
    stop = asyncio.Event()
    limits = Limits(max_records=max_records, max_bytes=max_bytes, wait_ms=50)
    loop = ConsumerLoop(
        parts.kafka, group=group_of(parts), instance=instance, topics=[topic], handler=handler, limits=limits, **more
    )
    running = Member(loop, asyncio.create_task(loop.run(stop)), stop)
    try:
        yield running
    finally:
        stop.set()
        running.task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await running.task


async def placed(*members: Member) -> None:
    """Until all of them know where they read."""

    async def waiting() -> list[str | None]:
        return [await one.loop.check() for one in members]

    await eventually(waiting, lambda problems: not any(problems))
