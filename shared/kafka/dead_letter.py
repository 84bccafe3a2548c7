"""Dead letters: a record that will stay wrong, kept byte for byte with the reason and where it came from.

At least once: (topic, partition, offset) identifies one. A reject found while decoding is written and
awaited before its offset moves; one decided inside a transaction leaves through the outbox.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from shared.contracts import headers as names
from shared.contracts.topics import DEAD_LETTER_SUFFIX, MAX_DEAD_LETTER_BYTES
from shared.domain.errors import Rejected
from shared.kafka.producer import Producer
from shared.kafka.records import Record
from shared.observability import names as metrics
from shared.observability.logging import VERSION
from shared.postgres.outbox import OutboxMessage

ERROR_TEXT_BYTES = 1024
KEPT_BYTES = MAX_DEAD_LETTER_BYTES - 1024 * 1024  # leaves room for headers


@dataclass(frozen=True, slots=True)
class Reject:
    record: Record
    error: Rejected


def letter(reject: Reject, group: str, service: str, failed_at: datetime) -> OutboxMessage:
    """The dead letter of one reject: same key, value and headers, and the `dlq.*` headers."""
    record, error = reject.record, reject.error
    attempt = (names.whole_number(record.headers, names.DLQ_ATTEMPT) or 0) + 1
    own = tuple((name, value) for name, value in record.headers if not name.startswith(names.DLQ_PREFIX))
    timestamp_ms = names.whole_number(record.headers, names.DLQ_TIMESTAMP)
    if timestamp_ms is None:
        timestamp_ms = record.timestamp_ms
    added = (
        (names.DLQ_TOPIC, record.topic),
        (names.DLQ_PARTITION, str(record.partition)),
        (names.DLQ_OFFSET, str(record.offset)),
        (names.DLQ_TIMESTAMP, str(timestamp_ms)),
        (names.DLQ_GROUP, group),
        (names.DLQ_SERVICE, service),
        (names.DLQ_VERSION, VERSION),
        (names.DLQ_ERROR_CLASS, type(error).__name__),
        (names.DLQ_ERROR_CODE, error.code),
        (names.DLQ_ERROR, error.message),
        (names.DLQ_FAILED_AT, failed_at.isoformat()),
        (names.DLQ_ATTEMPT, str(attempt)),
    )
    value, more = _fitting(record.value)
    return OutboxMessage(
        topic=record.topic + DEAD_LETTER_SUFFIX,
        key=record.key,
        value=value,
        headers=own + tuple((name, _cut(text)) for name, text in (*added, *more)),
    )


def _fitting(value: bytes | None) -> tuple[bytes | None, tuple[tuple[str, str], ...]]:
    """The value, or its beginning with length and digest: a record that packs well may be larger than any limit."""
    if value is None or len(value) <= KEPT_BYTES:
        return value, ()
    return value[:KEPT_BYTES], (
        (names.DLQ_TRUNCATED_FROM, str(len(value))),
        (names.DLQ_SHA256, hashlib.sha256(value).hexdigest()),
    )


def _cut(text: str) -> bytes:
    """At most 1 KiB, and still UTF-8."""
    return text.encode(errors="replace")[:ERROR_TEXT_BYTES].decode(errors="ignore").encode()


async def write(producer: Producer, rejects: Sequence[Reject], group: str, service: str) -> None:
    """Write and await. Raises BrokerAway: then the offset must not move."""
    if not rejects:
        return
    now = datetime.now(UTC)
    await producer.send([letter(reject, group, service, now) for reject in rejects])
    for reject in rejects:
        metrics.DEAD_LETTERS.labels(reject.record.topic, reject.error.code).inc()
