"""Which records of a topic are dead letters: read from the dead-letter topic itself."""

from __future__ import annotations

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.contracts import headers
from shared.contracts.topics import DEAD_LETTER_SUFFIX
from shared.domain.errors import BrokerAway
from shared.kafka.records import Record
from shared.runtime.settings import KafkaSettings


async def dead_letter_places(settings: KafkaSettings, topic: str) -> frozenset[tuple[int, int]]:
    """(partition, offset) in `topic` of every dead letter, each once. Raises BrokerAway."""
    name = topic + DEAD_LETTER_SUFFIX
    consumer = AIOKafkaConsumer(**settings.client_arguments(), enable_auto_commit=False, fetch_max_wait_ms=100)
    places: set[tuple[int, int]] = set()
    try:
        await consumer.start()
        partitions = [
            TopicPartition(name, p) for p in consumer.partitions_for_topic(name) or await _partitions(consumer, name)
        ]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(partition) < ends[partition] for partition in partitions]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                places |= {_place(Record.of(record)) for record in records}
    except KafkaError as error:
        raise BrokerAway(f"Kafka: {error}") from error
    finally:
        await consumer.stop()
    return frozenset(places)


async def _partitions(consumer: AIOKafkaConsumer, name: str) -> set[int]:
    await consumer._client.force_metadata_update()
    found: set[int] = consumer.partitions_for_topic(name) or set()
    return found


def _place(record: Record) -> tuple[int, int]:
    partition = headers.first(record.headers, headers.DLQ_PARTITION)
    offset = headers.first(record.headers, headers.DLQ_OFFSET)
    assert partition is not None and offset is not None, "a dead letter without its place"
    return int(partition), int(offset)
