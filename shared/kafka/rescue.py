"""Reading where aiokafka cannot: records with a header whose name is no UTF-8, which it refuses with all that follow.

librdkafka hands such a record out and refuses only its headers. Slower, so it reads just the stretch that is needed.
"""

from __future__ import annotations

import asyncio
from typing import cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Place

from shared.domain.errors import BrokerAway
from shared.kafka.records import Partition, Record
from shared.runtime.settings import KafkaSettings

READ_S = 10.0


async def read_any(
    settings: KafkaSettings, isolation: str, partition: Partition, position: int, most: int
) -> list[Record]:
    """The records from `position` on, to the partition's end or `most` of them; `damaged` where headers are missing.

    Raises BrokerAway.
    """
    return await asyncio.to_thread(_read, settings, isolation, partition, position, most)


def _read(settings: KafkaSettings, isolation: str, partition: Partition, position: int, most: int) -> list[Record]:
    consumer = Consumer(
        settings.librdkafka_arguments()
        | {
            "group.id": "khata.rescue",  # demanded, and never joined
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": isolation,
            "auto.offset.reset": "error",
        }
    )
    found: list[Record] = []
    try:
        consumer.assign([Place(partition.topic, partition.partition, position)])
        while len(found) < most:
            message = consumer.poll(READ_S)
            if message is None:
                raise BrokerAway(f"Kafka did not answer within {READ_S:g} s")
            error = message.error()
            if error is None:
                found.append(_record(message))
            elif error.code() == KafkaError._PARTITION_EOF:
                break
            else:
                raise BrokerAway(f"Kafka: {error.str()}")
    except KafkaException as error:
        raise BrokerAway(f"Kafka: {error.args[0].str()}") from error
    finally:
        consumer.close()
    return found


def _record(message: Message) -> Record:
    damaged = ""
    try:
        told = cast(list[tuple[str, bytes | None]], message.headers() or [])
        headers = tuple((name, value or b"") for name, value in told)
    except UnicodeError as error:
        headers, damaged = (), f"its headers cannot be read: {error}"
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None and partition is not None and offset is not None, "it comes from the log"
    return Record(topic, partition, offset, message.timestamp()[1], message.key(), message.value(), headers, damaged)
