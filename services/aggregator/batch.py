"""Prepare a batch: everything that needs no transaction. No I/O.

Reading, hashing and compressing are done once, however often the transaction has to be tried again; only when the
catalogue has changed meanwhile are the records read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby

from shared.domain.errors import Rejected
from shared.kafka.dead_letter import Reject
from shared.kafka.records import Batch, Record
from shared.usage.event import EventReader, UsageEvent
from shared.usage.segment import Segment, extent, pack

SLICE = 500  # records read before other tasks have their turn: about 2 ms


@dataclass(frozen=True, slots=True, eq=False)
class PreparedBatch:
    """A batch as `reader` read it.

    `events` and `places` run alike: an event, and which record of the batch it is; the others were `rejected`.
    `segments` pairs each with the index of its first record.
    """

    batch: Batch
    reader: EventReader
    events: Sequence[UsageEvent]
    places: Sequence[int]
    rejected: Sequence[Reject]
    segments: Sequence[tuple[int, Segment]]


async def prepare(batch: Batch, reader: EventReader, segments: Sequence[tuple[int, Segment]] = ()) -> PreparedBatch:
    """Read every record and compress them all; `segments` if that was done before. Other tasks have their turns."""
    events: list[UsageEvent] = []
    places: list[int] = []
    rejected: list[Reject] = []
    times: list[datetime | None] = [None] * len(batch.records)
    read = reader.read
    for index, record in enumerate(batch.records):
        if index % SLICE == 0:
            await asyncio.sleep(0)
        try:
            event = read(record.value)
        except Rejected as error:
            rejected.append(Reject(record, error))
            continue
        events.append(event)
        places.append(index)
        times[index] = event.time
    packed = _timed(segments, times) if segments else await _segments(batch.records, times)
    return PreparedBatch(batch, reader, events, places, rejected, packed)


def _timed(segments: Sequence[tuple[int, Segment]], times: Sequence[datetime | None]) -> list[tuple[int, Segment]]:
    found = []
    for first, segment in segments:
        earliest, latest = extent(times[first : first + segment.record_count])
        found.append((first, replace(segment, earliest=earliest, latest=latest)))
    return found


async def _segments(records: Sequence[Record], times: Sequence[datetime | None]) -> list[tuple[int, Segment]]:
    """One for each partition, and for each run of offsets in it."""
    found = []
    first = 0
    places = enumerate(records)
    for _, group in groupby(places, key=lambda place: (place[1].topic, place[1].partition, place[1].offset - place[0])):
        await asyncio.sleep(0)
        size = len(list(group))
        found.append((first, pack(records[first : first + size], times[first : first + size])))
        first += size
    return found


def refuse(batch: PreparedBatch, errors: Mapping[bytes, Rejected]) -> PreparedBatch:
    """Without the events of these identities, which become rejects."""
    if not errors:
        return batch
    pairs = list(zip(batch.places, batch.events, strict=True))
    left = [(place, event) for place, event in pairs if event.key not in errors]
    refused = [Reject(batch.batch.records[place], errors[event.key]) for place, event in pairs if event.key in errors]
    return replace(
        batch,
        events=[event for _, event in left],
        places=[place for place, _ in left],
        rejected=[*batch.rejected, *refused],
    )
