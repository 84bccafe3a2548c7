"""Read a stretch of one partition of the log, as fast as aiokafka hands it out; joins no group."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from shared.contracts.messages.receipt import Receipt, decode_receipt
from shared.contracts.topics import INGEST_RECEIPTS
from shared.domain.errors import BrokerAway
from shared.kafka import rewind
from shared.kafka.records import Partition
from shared.runtime.settings import KafkaSettings

FETCH_BYTES = 8 * 1024 * 1024
ANSWER_MS = 30_000
RECORDS_AT_ONCE = 20_000


async def read(
    settings: KafkaSettings, partition: Partition, start: int, end: int
) -> AsyncIterator[Sequence[ConsumerRecord]]:
    """Records of [start, end) in order, in large pieces. Raises BrokerAway."""
    if start >= end:
        return
    consumer = AIOKafkaConsumer(
        **settings.client_arguments(),
        enable_auto_commit=False,
        auto_offset_reset="none",
        max_partition_fetch_bytes=FETCH_BYTES,
        fetch_max_bytes=FETCH_BYTES,
    )
    try:
        await consumer.start()
        consumer.assign([partition])
        consumer.seek(partition, start)
        while start < end:
            found = await consumer.getmany(partition, timeout_ms=ANSWER_MS, max_records=RECORDS_AT_ONCE)
            records = found.get(partition, ())
            if not records:
                raise BrokerAway(f"Kafka did not hand out {partition.topic}[{partition.partition}] at {start}")
            start = records[-1].offset + 1
            yield records if start <= end else [record for record in records if record.offset < end]
    except OffsetOutOfRangeError as error:
        raise BrokerAway(f"retention took what was to be read ({error}): try again") from error
    except KafkaError as error:
        raise BrokerAway(f"Kafka: {error or type(error).__name__}") from error
    finally:
        await consumer.stop()


async def receipts_since(settings: KafkaSettings, since: datetime) -> list[Receipt]:
    """Every receipt that was published at `since` or later. Raises BrokerAway, and DecodeError for what is none."""
    topic = settings.names.topic(INGEST_RECEIPTS)
    bounds = await rewind.log_bounds(settings, [topic])
    starts = await rewind.offsets_at(settings, max(since, datetime.fromtimestamp(0, UTC)), bounds)
    found = []
    for partition, (start, end) in sorted(bounds.items()):
        async for records in read(settings, partition, max(start, starts[partition]), end):
            found += [decode_receipt(record.value or b"") for record in records]
    return found
