"""How much the log holds."""

from __future__ import annotations

from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.contracts.topics import USAGE_EVENTS
from shared.runtime.settings import KafkaSettings


async def log_end(settings: KafkaSettings) -> int:
    """How many records the events topic was given."""
    topic = settings.names.topic(USAGE_EVENTS)
    consumer = AIOKafkaConsumer(**settings.client_arguments())
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in range(USAGE_EVENTS.partitions)]
        return sum((await consumer.end_offsets(partitions)).values())
    finally:
        await consumer.stop()
