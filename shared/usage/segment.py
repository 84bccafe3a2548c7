"""Segments: the archive is the log itself, in compressed blocks, with what became of each record.

A segment holds every record of one offset range that one batch moved on one partition, and one
disposition letter per record. Everything that recomputes (verify, repair, trace) reads these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import cramjam
import msgspec

from shared.domain.errors import Fatal
from shared.kafka.records import Record

ZSTD_LEVEL = 1  # measured: level 1 takes 22 bytes an event, higher levels cost more CPU than disk


class Disposition(StrEnum):
    """What became of a record. The letter is stored."""

    COUNTED = "c"
    DUPLICATE = "d"
    CONFLICT = "x"
    REJECTED = "r"
    ADJUSTMENT = "a"  # counted, but after its month was sealed: billed by a later document
    TEST = "t"  # counted in test windows, never billed
    UNMETERED = "u"  # its identity is taken, but no meter counts it (its type yet, or by a filter): on no invoice
    CORRECTION = "k"  # takes another event back or amends it; what it did stands in usage.correction


@dataclass(frozen=True, slots=True)
class Segment:
    """One block of usage.segment; its dispositions are known only inside the transaction.

    `earliest` and `latest` are times of events, None when every record was rejected.
    """

    topic: str
    partition: int
    first_offset: int
    last_offset: int
    record_count: int
    earliest: datetime | None
    latest: datetime | None
    payload: bytes
    sha256: bytes


_Row = tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes]]]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_Row]).decode


def pack(records: Sequence[Record], times: Sequence[datetime | None]) -> Segment:
    """One segment of records of one partition, in offset order, with the event time of each."""
    assert records and len(records) == len(times)
    rows = [(r.offset, r.timestamp_ms, r.key, r.value, r.headers) for r in records]
    plain = _encode(rows)
    earliest, latest = extent(times)
    return Segment(
        topic=records[0].topic,
        partition=records[0].partition,
        first_offset=records[0].offset,
        last_offset=records[-1].offset,
        record_count=len(records),
        earliest=earliest,
        latest=latest,
        payload=bytes(cramjam.zstd.compress(plain, level=ZSTD_LEVEL)),
        sha256=hashlib.sha256(plain).digest(),
    )


def extent(times: Sequence[datetime | None]) -> tuple[datetime | None, datetime | None]:
    """The earliest and the latest of those that are known."""
    known = [time for time in times if time is not None]
    return min(known, default=None), max(known, default=None)


def block_of(rows: Iterable[tuple[int, int, bytes | None, bytes | None, object]]) -> bytes:
    """What a segment of these (offset, timestamp, key, value, headers) holds before it is compressed."""
    return _encode(list(rows))


def unpack(topic: str, partition: int, payload: bytes, sha256: bytes) -> list[Record]:
    """The records, byte for byte. Raises Fatal when the stored bytes are not what was written."""
    return [
        Record(topic, partition, offset, timestamp, key, value, tuple((name, data) for name, data in headers))
        for offset, timestamp, key, value, headers in _decode(verified(topic, partition, payload, sha256))
    ]


def verified(topic: str, partition: int, payload: bytes, sha256: bytes) -> bytes:
    """Its records as `block_of` makes them. Raises Fatal when the stored bytes are not what was written."""
    try:
        plain = bytes(cramjam.zstd.decompress(payload))
    except cramjam.DecompressionError as error:
        raise Fatal(f"a segment of {topic}[{partition}] cannot be read: {error}") from error
    if hashlib.sha256(plain).digest() != sha256:
        raise Fatal(f"a segment of {topic}[{partition}] does not have the checksum it was stored with")
    return plain


def letters(dispositions: Sequence[Disposition]) -> bytes:
    return "".join(dispositions).encode()


def from_letters(stored: bytes) -> tuple[Disposition, ...]:
    return tuple(Disposition(letter) for letter in stored.decode())
