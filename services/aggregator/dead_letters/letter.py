"""What a record of a dead-letter topic says. Pure, and it takes anything: what cannot be read is left out or made safe.

Khata's own letters carry `dlq.*` headers (shared/kafka/dead_letter.py). One without them, or with such as cannot be
true, has no known origin: it is told apart by its own place, and sent to the topic whose dead-letter topic it is in.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from shared.contracts import headers as names
from shared.contracts.headers import Headers
from shared.contracts.topics import DEAD_LETTER_SUFFIX, USAGE_EVENTS, USAGE_RAW, Names
from shared.kafka.records import Record

UNKNOWN = "unknown"
LONGEST_TEXT = 1024
# An event is never larger (services/ingest/validate.py), and decoding 16 MB would hold up the process.
READ_BYTES = 256 * 1024
_PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_FIRST = datetime(2000, 1, 1, tzinfo=UTC)
_LARGEST_PARTITION = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter; the columns of messaging.dead_letter say what each field means. Its texts hold no NUL."""

    topic: str
    partition: int
    offset: int
    origin_known: bool
    original_at: datetime
    key: bytes | None
    value: bytes | None
    headers: Headers
    truncated_from: int | None
    damaged: str
    attempt: int
    group: str
    service: str
    version: str
    error_class: str
    code: str
    error: str
    failed_at: datetime
    project: str | None
    event_at: datetime | None
    letter_partition: int
    letter_offset: int

    def digest(self) -> bytes:
        """The same for every letter about the same record; the outbox makes a missing key an empty one."""
        hashed = hashlib.sha256(b"%d|" % round(self.original_at.timestamp() * 1000))
        for part in (self.key or b"", self.value):
            hashed.update(b"-" if part is None else b"%d:" % len(part) + part)
        return hashed.digest()


class _Said(msgspec.Struct, gc=False):
    """What a value says of itself: a CloudEvent or one of Khata's own messages."""

    project: str | None = None
    project_id: str | None = None
    time: str | None = None
    mode: str | None = None
    live: bool = True


_said = msgspec.json.Decoder(_Said)


def read_letter(record: Record, topics: Names) -> Letter:
    """Raises nothing, whatever the record holds."""
    topic = record.topic.removesuffix(DEAD_LETTER_SUFFIX)
    written_at = _instant(record.timestamp_ms, datetime.now(UTC))
    origin = _origin(record, topic)
    original_at = _instant(names.whole_number(record.headers, names.DLQ_TIMESTAMP), written_at)
    said = _said_by(record)
    project = topics.raw_project(topic) or said.project or said.project_id
    return Letter(
        topic=topic,
        partition=origin[0] if origin else record.partition,
        offset=origin[1] if origin else record.offset,
        origin_known=origin is not None,
        original_at=original_at,
        key=record.key,
        value=record.value,
        headers=record.headers,
        truncated_from=names.whole_number(record.headers, names.DLQ_TRUNCATED_FROM),
        damaged=_clean(record.damaged),
        attempt=names.whole_number(record.headers, names.DLQ_ATTEMPT) or 1,
        group=_text(record, names.DLQ_GROUP),
        service=_text(record, names.DLQ_SERVICE),
        version=_text(record, names.DLQ_VERSION),
        error_class=_text(record, names.DLQ_ERROR_CLASS),
        code=_text(record, names.DLQ_ERROR_CODE)[:64],
        error=_text(record, names.DLQ_ERROR),
        failed_at=_failed_at(record, written_at),
        project=project if project is not None and _PROJECT.fullmatch(project) else None,
        event_at=_event_at(said, topic, topics, original_at),
        letter_partition=record.partition,
        letter_offset=record.offset,
    )


def _origin(record: Record, topic: str) -> tuple[int, int] | None:
    """Partition and offset of the record that failed, when the letter names one of its own topic."""
    named = names.first(record.headers, names.DLQ_TOPIC)
    partition = names.whole_number(record.headers, names.DLQ_PARTITION)
    offset = names.whole_number(record.headers, names.DLQ_OFFSET)
    if named != topic.encode() or partition is None or offset is None or partition > _LARGEST_PARTITION:
        return None
    return partition, offset


def _said_by(record: Record) -> _Said:
    """Of a CloudEvent in binary mode the headers (as the Kafka door reads them), else the value, if it is JSON."""
    content_type = (names.first(record.headers, names.CONTENT_TYPE) or b"").lower()
    binary = {name[3:]: _clean(value.decode(errors="replace")) for name, value in record.headers if name[:3] == "ce_"}
    if binary and not content_type.startswith(b"application/cloudevents"):
        return _Said(binary.get("project"), None, binary.get("time"), binary.get("mode"))
    try:
        return _said.decode(record.value or b"") if len(record.value or b"") <= READ_BYTES else _Said()
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _Said()


def _event_at(said: _Said, topic: str, topics: Names, original_at: datetime) -> datetime | None:
    """When a live usage event happened; without `time` when the broker took it, as for the Kafka door."""
    usage = topic in (topics.topic(USAGE_RAW), topics.topic(USAGE_EVENTS)) or topics.raw_project(topic) is not None
    if not usage or not said.live or said.mode == "test":
        return None
    if said.time is None:
        return original_at
    try:
        at = msgspec.convert(said.time, datetime)
        return at.astimezone(UTC) if at.tzinfo is not None and at.year > 1 else None
    except (msgspec.MsgspecError, ValueError, OverflowError):
        return None


def _failed_at(record: Record, written_at: datetime) -> datetime:
    """As the letter says, unless that cannot be: then when the broker took it."""
    try:
        told = datetime.fromisoformat((names.first(record.headers, names.DLQ_FAILED_AT) or b"").decode())
    except ValueError:
        return written_at
    believable = told.tzinfo is not None and _FIRST <= told <= written_at + timedelta(hours=1)
    return told.astimezone(UTC) if believable else written_at


def _instant(ms: int | None, otherwise: datetime) -> datetime:
    try:
        at = _FIRST if ms is None else datetime.fromtimestamp(ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return otherwise
    return at if at > _FIRST else otherwise


def _text(record: Record, name: str) -> str:
    value = names.first(record.headers, name)
    return UNKNOWN if value is None else _clean(value.decode(errors="replace"))


def _clean(text: str) -> str:
    """As Postgres takes it: no NUL, no surrogates, and not without end."""
    return text[:LONGEST_TEXT].encode(errors="replace").decode().replace("\x00", "\N{REPLACEMENT CHARACTER}")
