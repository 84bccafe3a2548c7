"""Topics as a test looks at them from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from shared.kafka.producer import Producer
from shared.kafka.records import Record
from shared.postgres.outbox import OutboxMessage
from tests.conftest import Parts


async def read_topic(parts: Parts, topic: str) -> list[Record]:
    """Every record of the topic, committed ones only, in order per partition."""
    consumer = AIOKafkaConsumer(bootstrap_servers=parts.bootstrap, isolation_level="read_committed")
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in sorted(await _partitions(parts, topic))]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        found: list[Record] = []
        while True:
            if all([await consumer.position(partition) >= ends[partition] for partition in partitions]):
                return sorted(found, key=lambda record: (record.partition, record.offset))
            for records in (await consumer.getmany(timeout_ms=100)).values():
                found += [Record.of(record) for record in records]
    finally:
        await consumer.stop()


@asynccontextmanager
async def admin(parts: Parts) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=parts.bootstrap)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def _partitions(parts: Parts, topic: str) -> list[int]:
    async with admin(parts) as client:
        [described] = await client.describe_topics([topic])
        return [partition["partition"] for partition in described["partitions"]]


async def send(parts: Parts, topic: str, values: Sequence[bytes], keys: int = 1) -> list[tuple[int, int]]:
    """(partition, offset) of each; spread over so many keys."""
    producer = Producer(parts.kafka, "test")
    try:
        return await producer.send([OutboxMessage(topic, b"k%d" % (n % keys), v) for n, v in enumerate(values)])
    finally:
        await producer.stop()


async def committed(parts: Parts, group: str) -> dict[tuple[str, int], int]:
    """What the group has committed to Kafka."""
    async with admin(parts) as client:
        found = await client.list_consumer_group_offsets(group)
    return {(partition.topic, partition.partition): entry.offset for partition, entry in found.items()}


def refuse_records(parts: Parts, topic: str, *, refuse: bool) -> None:
    """The broker takes no record of the topic any more: none is new enough."""
    wanted = {
        "message.timestamp.type": "CreateTime" if refuse else "LogAppendTime",
        "message.timestamp.before.max.ms": "0" if refuse else str(2**63 - 1),
    }
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in wanted.items()]
    changed = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    client = AdminClient({"bootstrap.servers": parts.bootstrap, "log_level": 3})
    for done in client.incremental_alter_configs([changed]).values():
        done.result(10)
