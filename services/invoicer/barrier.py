"""The close barrier: everything accepted before the close is aggregated before the cut is taken (R9.4).

    a  the Kafka door has passed the ends of all raw topics (read_committed), taken when the close began:
       usage.raw.v1, and the topics that projects have of their own
    b  every spool has said, as of after the close began, that it holds nothing accepted before (spool_barrier.py)
    c  the aggregator's offsets in Postgres have passed the end of usage.events.v1, taken after a and b

An event is accepted by the HTTP door only once usage.events.v1 has it, so c covers that door. Positions only
grow, so what has passed stays passed until the cut.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaError,
    NotCoordinatorForGroupError,
)

from services.invoicer import spool_barrier
from services.invoicer.progress import Progress, Stage
from shared.catalogue import own_topics
from shared.contracts.topics import USAGE_EVENTS, USAGE_RAW, Topic, project_raw
from shared.domain.errors import BrokerAway, Retryable
from shared.kafka import offsets
from shared.kafka.records import Partition
from shared.postgres.pool import Database
from shared.runtime.settings import KafkaSettings

LOOK_EVERY_S = 0.1
KAFKA_ANSWER_S = 10.0


@dataclass(frozen=True, slots=True)
class Extent:
    """Log start and end (exclusive) of a partition at one moment."""

    start: int
    end: int

    def behind(self, position: int | None) -> int:
        """Records between the position and the end; a partition that is empty needs no position."""
        return max(0, self.end - (self.start if position is None else position))


Positions = Mapping[Partition, int | None]
Isolation = Literal["read_committed", "read_uncommitted"]


@dataclass(frozen=True, slots=True)
class Reader:
    """Who must pass: `name` for people, `command` is the process to look at."""

    name: str
    command: str
    positions: Callable[[], Awaitable[Positions]]


async def wait(kafka: KafkaSettings, database: Database, progress: Progress, deadline_s: float) -> None:
    """Return when the barrier is passed.

    Raises Retryable when it is not within `deadline_s`, naming partition, lag and process; BrokerAway and
    DatabaseAway when those do not answer. Nothing is changed by it.
    """
    deadline, began = time.monotonic() + deadline_s, datetime.now(UTC)
    async with _admin(kafka) as admin:
        raw = [kafka.names.topic(topic) for topic in (USAGE_RAW, *await _own_topics(database))]
        door = Reader(
            "the Kafka door", "khata run ingest", lambda: _committed(admin, kafka.names.group("ingest", "door"), raw)
        )
        extents = await _extents(kafka, admin, raw, "read_committed")
        await _passed(door, extents, progress, deadline, deadline_s)

        await spool_barrier.wait(kafka, database, began, progress, deadline, deadline_s)

        events = kafka.names.topic(USAGE_EVENTS)
        # The aggregator reads uncommitted records too; ingest writes without transactions.
        extents = await _extents(kafka, admin, [events], "read_uncommitted")
        group = kafka.names.group("aggregator")
        aggregator = Reader("the aggregator", "khata run aggregator", lambda: _stored(database, group, list(extents)))
        await _passed(aggregator, extents, progress, deadline, deadline_s)


async def _passed(
    reader: Reader, extents: Mapping[Partition, Extent], progress: Progress, deadline: float, deadline_s: float
) -> None:
    total = sum(extent.end - extent.start for extent in extents.values())
    topic = _shown(sorted({partition.topic for partition in extents}))
    while True:
        positions = await reader.positions() if total else {}
        behind = {p: extent.behind(positions.get(p)) for p, extent in extents.items()}
        left = sum(behind.values())
        progress(Stage(f"{reader.name} passes {topic}", max(0, total - left), total))
        if left == 0:
            return
        if time.monotonic() >= deadline:
            raise Retryable(_too_late(reader, extents, positions, behind, deadline_s))
        await asyncio.sleep(LOOK_EVERY_S)


def _too_late(
    reader: Reader,
    extents: Mapping[Partition, Extent],
    positions: Positions,
    behind: Mapping[Partition, int],
    deadline_s: float,
) -> str:
    lagging = ", ".join(
        f"{partition.topic}[{partition.partition}] by {behind[partition]} "
        f"(at {positions.get(partition) if positions.get(partition) is not None else 'no position yet'}, "
        f"end {extents[partition].end})"
        for partition in sorted(extents)
        if behind[partition]
    )
    return (
        f"{reader.name} lags after {deadline_s:g} s: {lagging}. Nothing was sealed. "
        f"Look at `{reader.command}` (its log, /readyz and dead letters), then run the close again"
    )


async def _extents(
    kafka: KafkaSettings,
    admin: AIOKafkaAdminClient,
    topics: Sequence[str],
    isolation: Isolation,
) -> dict[Partition, Extent]:
    """Of every partition of the topics. Raises Retryable for a topic that is not there: what it held is not known."""
    consumer = AIOKafkaConsumer(
        **kafka.client_arguments(),
        isolation_level=isolation,
        enable_auto_commit=False,
        retry_backoff_ms=20,  # the first question finds no metadata yet and waits this long
    )
    async with _kafka_answers():
        try:
            await consumer.start()
            described = await admin.describe_topics(list(topics))
            if missing := sorted(topic["topic"] for topic in described if topic["error_code"]):
                raise Retryable(
                    f"not in Kafka: {', '.join(missing)}. Nothing was sealed. "
                    "Run `khata topics apply`, then the close again"
                )
            partitions = [
                Partition(topic["topic"], found["partition"]) for topic in described for found in topic["partitions"]
            ]
            starts = await consumer.beginning_offsets(partitions)
            ends = await consumer.end_offsets(partitions)
        finally:
            await consumer.stop()
    return {partition: Extent(starts[partition], ends[partition]) for partition in sorted(partitions)}


async def _committed(admin: AIOKafkaAdminClient, group: str, topics: Sequence[str]) -> Positions:
    async with _kafka_answers():
        try:
            found = await admin.list_consumer_group_offsets(group)
        except (GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError, GroupLoadInProgressError):
            return {}  # a broker that has just started; look again
    return {
        partition: held.offset for partition, held in found.items() if partition.topic in topics and held.offset >= 0
    }


async def _own_topics(database: Database) -> list[Topic]:
    """Of projects that have a raw topic of their own; none is ever taken back (catalogue.project.raw_topic)."""
    async with database.connection() as connection:
        return [project_raw(id) for id in await own_topics.stored(connection)]


def _shown(topics: Sequence[str]) -> str:
    return topics[0] if len(topics) == 1 else f"{topics[-1]} and {len(topics) - 1} topics of projects"


async def _stored(database: Database, group: str, partitions: list[Partition]) -> Positions:
    async with database.connection() as connection:
        found = await offsets.stored(connection, group, partitions)
    return {partition: None if stored is None else stored.next_offset for partition, stored in found.items()}


@asynccontextmanager
async def _admin(kafka: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**kafka.client_arguments())
    try:
        async with _kafka_answers():
            await admin.start()
        yield admin
    finally:
        await admin.close()


@asynccontextmanager
async def _kafka_answers() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(KAFKA_ANSWER_S):
            yield
    except TimeoutError:
        raise BrokerAway(f"Kafka did not answer within {KAFKA_ANSWER_S:g} s") from None
    except KafkaError as error:
        raise BrokerAway(f"Kafka: {error or type(error).__name__}") from error
