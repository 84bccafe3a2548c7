"""A record and a batch as every consumer sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import msgspec
from aiokafka import ConsumerRecord, TopicPartition

from shared.contracts.headers import Headers

Partition = TopicPartition


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record; `timestamp_ms` is the broker's append time, `damaged` why its headers are missing, if they are."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    damaged: str = ""

    @classmethod
    def of(cls, record: ConsumerRecord) -> Record:
        return cls(
            record.topic,
            record.partition,
            record.offset,
            record.timestamp,
            record.key,
            record.value,
            _headers(record.headers),
        )

    def digest(self) -> bytes:
        """What tells this record from any other at the same offset of a re-created topic."""
        hashed = hashlib.sha256(b"%d|%d|" % (self.offset, self.timestamp_ms))
        for part in (self.key, self.value):
            hashed.update(b"-" if part is None else b"%d:" % len(part) + part)
        return hashed.digest()


def _headers(headers: Sequence[tuple[str, bytes | None]]) -> Headers:
    """A header without a value has an empty one."""
    for _, value in headers:
        if value is None:
            return tuple([(name, value or b"") for name, value in headers])
    return cast(Headers, tuple(headers))


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """What a batch moves on one partition: from `start` (our position) to `end` (exclusive)."""

    topic: str
    partition: int
    start: int
    end: int
    last: Record


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of several partitions, in offset order within each; `ranges` are sorted by partition."""

    records: tuple[Record, ...]
    ranges: tuple[OffsetRange, ...]
