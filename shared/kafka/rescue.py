"""Reading where aiokafka cannot: records with a header whose name is no UTF-8, which it refuses with all that follow.

librdkafka hands such a record out and refuses only its headers. Slower, so it reads just the stretch that is needed.
"""

from __future__ import annotations

import asyncio
from operator import methodcaller
from typing import cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Place

from shared.domain.errors import BrokerAway
from shared.kafka.records import Partition, Record
from shared.runtime.settings import KafkaSettings

READ_S = 10.0
FETCH_WAIT_MS = 20  # a partition's end is told only after that long without a record, and there are many partitions
# The client returns a broken list with its UnicodeError left behind. Called from C that is found at once, as a
# SystemError; called from Python, a hot call is not looked at, and the error comes out of some later line.
_headers_of = methodcaller("headers")


async def read_any(
    settings: KafkaSettings, isolation: str, partition: Partition, position: int, most: int, most_bytes: int
) -> tuple[list[Record], bool]:
    """The records from `position` on, to the partition's end or so many, `damaged` where headers are missing; and
    whether there are more.

    Raises BrokerAway.
    """
    return await asyncio.to_thread(_read, settings, isolation, partition, position, most, most_bytes)


def _read(
    settings: KafkaSettings, isolation: str, partition: Partition, position: int, most: int, most_bytes: int
) -> tuple[list[Record], bool]:
    consumer = Consumer(
        settings.librdkafka_arguments()
        | {
            "group.id": "khata.rescue",  # demanded, and never joined
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": FETCH_WAIT_MS,
            "isolation.level": isolation,
            "auto.offset.reset": "error",
            "queued.max.messages.kbytes": 2 * most_bytes // 1024,
        }
    )
    found: list[Record] = []
    size = 0
    try:
        consumer.assign([Place(partition.topic, partition.partition, position)])
        while len(found) < most and size < most_bytes:
            message = consumer.poll(READ_S)
            if message is None:
                raise BrokerAway(f"Kafka did not answer within {READ_S:g} s")
            error = message.error()
            if error is None:
                found.append(_record(message))
                size += len(found[-1].value or b"")
            elif error.code() == KafkaError._PARTITION_EOF:
                return found, False
            else:
                raise BrokerAway(f"Kafka: {error.str()}")
    except KafkaException as error:
        raise BrokerAway(f"Kafka: {error.args[0].str()}") from error
    finally:
        consumer.close()
    return found, True


def _record(message: Message) -> Record:
    damaged = ""
    try:
        told = cast(list[tuple[str, bytes | None]], _headers_of(message) or [])
        headers = tuple((name, value or b"") for name, value in told)
    except (UnicodeError, SystemError) as error:
        headers, damaged = (), f"its headers cannot be read: {error.__cause__ or error}"
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None and partition is not None and offset is not None, "it comes from the log"
    return Record(topic, partition, offset, message.timestamp()[1], message.key(), message.value(), headers, damaged)
