"""Every spool that was ever announced, with its last word: what `spools.v1` holds now."""

from __future__ import annotations

import asyncio

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.contracts.messages.spool import SpoolState, decode_spool
from shared.contracts.topics import SPOOLS
from shared.domain.errors import BrokerAway, Fatal
from shared.runtime.settings import KafkaSettings

ANSWER_S = 10.0


async def known_spools(settings: KafkaSettings) -> dict[str, SpoolState]:
    """Last statement of each spool by id. Raises BrokerAway, and Fatal for a statement that cannot be read.

    One that is skipped could be the only word of a spool that still holds events.
    """
    partition = TopicPartition(settings.names.topic(SPOOLS), 0)
    consumer = AIOKafkaConsumer(**settings.client_arguments(), enable_auto_commit=False, fetch_max_wait_ms=100)
    found: dict[str, SpoolState] = {}
    try:
        async with asyncio.timeout(ANSWER_S):
            await consumer.start()
            consumer.assign([partition])
            await consumer.seek_to_beginning(partition)
            end = (await consumer.end_offsets([partition]))[partition]
            while await consumer.position(partition) < end:
                for record in (await consumer.getmany(partition, timeout_ms=100)).get(partition, ()):
                    state = decode_spool(record.value or b"")
                    found[state.spool_id] = state
    except msgspec.MsgspecError as error:
        raise Fatal(f"{partition.topic} holds a statement that cannot be read: {error}") from error
    except TimeoutError:
        raise BrokerAway(f"Kafka did not tell {partition.topic} within {ANSWER_S:g} s") from None
    except KafkaError as error:
        raise BrokerAway(f"Kafka: {error or type(error).__name__}") from error
    finally:
        await consumer.stop()
    return found
