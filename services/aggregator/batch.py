"""Prepare a batch: everything that needs no transaction. Pure.

Decoding, hashing and compressing are done once, however often the transaction has to be tried again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

import msgspec

from shared.contracts.messages.event import StampedEvent, decode_event
from shared.domain.errors import Rejected
from shared.domain.identity import read_data
from shared.kafka.dead_letter import Reject
from shared.kafka.records import Batch, Record
from shared.usage.segment import Segment, pack


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """One record that is an event; whether it counts is decided under the epoch lock. `index` is its place."""

    index: int
    record: Record
    event: StampedEvent
    data: Any


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """`segments` pairs each segment with the index of its first record in the batch."""

    batch: Batch
    decoded: tuple[Decoded, ...]
    malformed: tuple[Reject, ...]
    segments: tuple[tuple[int, Segment], ...]


def prepare(batch: Batch) -> PreparedBatch:
    """Decode, split off what is no event at all, compress."""
    decoded: list[Decoded] = []
    malformed: list[Reject] = []
    times: list[datetime | None] = []
    for index, record in enumerate(batch.records):
        try:
            one = _decode(index, record)
        except Rejected as error:
            malformed.append(Reject(record, error))
            times.append(None)
        else:
            decoded.append(one)
            times.append(one.event.time)
    return PreparedBatch(batch, tuple(decoded), tuple(malformed), tuple(_segments(batch.records, times)))


def _decode(index: int, record: Record) -> Decoded:
    if record.value is None:
        raise Rejected("malformed", "the record has no value")
    try:
        event = decode_event(record.value)
        return Decoded(index, record, event, read_data(bytes(event.data)))
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Rejected("malformed", f"not a stamped event: {error}") from None


def _segments(records: Sequence[Record], times: Sequence[datetime | None]) -> list[tuple[int, Segment]]:
    """One for each partition, and for each run of offsets in it."""
    found = []
    first = 0
    places = enumerate(records)
    for _, group in groupby(places, key=lambda place: (place[1].topic, place[1].partition, place[1].offset - place[0])):
        size = len(list(group))
        found.append((first, pack(records[first : first + size], times[first : first + size])))
        first += size
    return found
