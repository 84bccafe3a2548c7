"""Receipts, as far back as they are asked for."""

from __future__ import annotations

from datetime import UTC, datetime

from shared.contracts.messages.receipt import Receipt, decode_receipt
from shared.contracts.topics import INGEST_RECEIPTS
from shared.kafka import rewind
from shared.kafka.scan import scan
from shared.runtime.settings import KafkaSettings


async def receipts_since(settings: KafkaSettings, since: datetime) -> list[Receipt]:
    """Every receipt that was published at `since` or later. Raises BrokerAway, and DecodeError for what is none."""
    topic = settings.names.topic(INGEST_RECEIPTS)
    bounds = await rewind.log_bounds(settings, [topic])
    starts = await rewind.offsets_at(settings, max(since, datetime.fromtimestamp(0, UTC)), bounds)
    found = []
    for partition, (start, end) in sorted(bounds.items()):
        async for records in scan(settings, partition, max(start, starts[partition]), end):
            found += [decode_receipt(record.value or b"") for record in records]
    return found
