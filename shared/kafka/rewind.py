"""Setting a group back, for those whose offsets live in Postgres.

    1  nobody of the group may be alive: asked of Kafka (`members`)
    2  Kafka's position first (`commit`)          Kafka itself refuses it while the group has a member
                                                  crash here: its position lags behind, which is harmless
    3  then Postgres, in one transaction, where the offset still is what it was seen to be (`store`)

In the other order a purge that asks Kafka what the group has consumed (shared/spool/purge.py) would believe a position
that is not stored any more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from shared.domain.errors import BrokerAway
from shared.kafka.records import Partition
from shared.postgres.pool import Connection
from shared.runtime.settings import KafkaSettings

Bounds = Mapping[Partition, tuple[int, int]]


async def log_bounds(settings: KafkaSettings, topics: Sequence[str]) -> dict[Partition, tuple[int, int]]:
    """(start, end) of the log of every partition; nothing for a topic that does not exist. Raises BrokerAway."""
    async with _admin(settings) as admin:
        there = set(await admin.list_topics())
        asked = [topic for topic in dict.fromkeys(topics) if topic in there]
        described = await admin.describe_topics(asked) if asked else []
    found = [Partition(topic["topic"], each["partition"]) for topic in described for each in topic["partitions"]]
    if not found:
        return {}
    async with _consumer(settings) as consumer:
        starts, ends = await consumer.beginning_offsets(found), await consumer.end_offsets(found)
    return {partition: (starts[partition], ends[partition]) for partition in found}


async def offsets_at(settings: KafkaSettings, at: datetime, bounds: Bounds) -> dict[Partition, int]:
    """Of each partition the first offset the broker took at `at` or later; the log's end when there is none."""
    async with _consumer(settings) as consumer:
        found = await consumer.offsets_for_times(dict.fromkeys(bounds, int(at.timestamp() * 1000)))
    return {
        partition: found[partition].offset if found.get(partition) else end for partition, (_, end) in bounds.items()
    }


async def positions(settings: KafkaSettings, group: str) -> dict[Partition, int]:
    """What the group has committed to Kafka. Raises BrokerAway."""
    async with _admin(settings) as admin:
        found = await admin.list_consumer_group_offsets(group)
    return {Partition(*partition): entry.offset for partition, entry in found.items() if entry.offset >= 0}


async def members(settings: KafkaSettings, group: str) -> list[str]:
    """Client ids of the group's members, as Kafka sees them. Raises BrokerAway."""
    async with _admin(settings) as admin:
        [answer] = await admin.describe_consumer_groups([group])
    [described] = answer.to_object()["groups"]
    if described["error_code"]:
        raise BrokerAway(f"Kafka does not say who is in {group} (error {described['error_code']})")
    return sorted(member["client_id"] for member in described["members"])


async def commit(settings: KafkaSettings, group: str, targets: Mapping[Partition, int]) -> None:
    """Step 2. Raises BrokerAway, also when a member of the group has started meanwhile."""
    async with _consumer(settings, group_id=group, enable_auto_commit=False) as consumer:
        consumer.assign(list(targets))
        await consumer.commit(dict(targets))


async def store(connection: Connection, group: str, partition: Partition, target: int, seen: int | None = None) -> bool:
    """Step 3 for one partition; False when it is not where it was `seen` any more. None: wherever it is.

    What the last record before the target was is not known any more, so the next start cannot compare it.
    """
    cursor = await connection.execute(
        """
        UPDATE messaging.consumer_offset
        SET next_offset = %(target)s, last_offset = NULL, last_digest = NULL, updated_at = now()
        WHERE consumer_group = %(group)s AND topic = %(topic)s AND partition = %(partition)s
          AND (%(seen)s::bigint IS NULL OR next_offset = %(seen)s)
        """,
        {
            "target": target,
            "group": group,
            "topic": partition.topic,
            "partition": partition.partition,
            "seen": seen,
        },
    )
    return cursor.rowcount == 1


@asynccontextmanager
async def _admin(settings: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**settings.client_arguments(), request_timeout_ms=15_000)
    try:
        await admin.start()
        yield admin
    except KafkaError as error:
        raise BrokerAway(f"Kafka at {settings.kafka_bootstrap_servers}: {error or type(error).__name__}") from error
    finally:
        await admin.close()


@asynccontextmanager
async def _consumer(settings: KafkaSettings, **more: object) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(**settings.client_arguments(), **more)
    try:
        await consumer.start()
        yield consumer
    except KafkaError as error:
        raise BrokerAway(f"Kafka at {settings.kafka_bootstrap_servers}: {error or type(error).__name__}") from error
    finally:
        await consumer.stop()
