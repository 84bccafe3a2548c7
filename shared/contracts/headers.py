"""Kafka headers Khata reads and writes."""

from __future__ import annotations

CONTENT_TYPE = "content-type"
CLOUDEVENT_JSON = b"application/cloudevents+json"
# Id of the spool the record came through on its way; whichever process forwarded it.
SPOOL = "spool"

# A dead letter keeps the record's own headers and adds these (text in UTF-8).
DLQ_TOPIC = "dlq.topic"
DLQ_PARTITION = "dlq.partition"
DLQ_OFFSET = "dlq.offset"
DLQ_TIMESTAMP = "dlq.timestamp"  # of the original record, milliseconds
DLQ_GROUP = "dlq.group"
DLQ_SERVICE = "dlq.service"
DLQ_VERSION = "dlq.version"
DLQ_ERROR_CLASS = "dlq.error_class"
DLQ_ERROR_CODE = "dlq.error_code"
DLQ_ERROR = "dlq.error"
DLQ_FAILED_AT = "dlq.failed_at"
DLQ_ATTEMPT = "dlq.attempt"
# Only on a value too large for the dead-letter topic: its whole length and sha256.
DLQ_TRUNCATED_FROM = "dlq.truncated_from"
DLQ_SHA256 = "dlq.sha256"
DLQ_PREFIX = "dlq."

Headers = tuple[tuple[str, bytes], ...]


def whole_number(headers: Headers, name: str) -> int | None:
    """Value of the first header of that name as a number below 10^15; None without one, or for any other text.

    Anyone may write a header: a wrong one must not stop the reader.
    """
    value = first(headers, name)
    return int(value) if value is not None and len(value) <= 15 and value.isdigit() else None


def first(headers: Headers, name: str) -> bytes | None:
    """Value of the first header of that name, or None."""
    for key, value in headers:
        if key == name:
            return value
    return None
