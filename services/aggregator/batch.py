"""Prepare a batch: everything that needs no transaction. No I/O.

Reading, hashing and compressing are done once, however often the transaction has to be tried again; only when the
catalogue has changed meanwhile are the records read again.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from shared.domain.errors import Rejected
from shared.domain.period import Month
from shared.kafka.dead_letter import Reject
from shared.kafka.records import Batch, Record
from shared.usage.event import EventReader, UsageEvent
from shared.usage.segment import Disposition, Segment, extent, pack

SLICE = 200  # records read before other tasks have their turn: about 1 ms


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
    packed = _timed(segments, times) if segments else await _segments(batch, times)
    return PreparedBatch(batch, reader, events, places, rejected, packed)


def _timed(segments: Sequence[tuple[int, Segment]], times: Sequence[datetime | None]) -> list[tuple[int, Segment]]:
    found = []
    for first, segment in segments:
        earliest, latest = extent(times[first : first + segment.record_count])
        found.append((first, replace(segment, earliest=earliest, latest=latest)))
    return found


async def _segments(batch: Batch, times: Sequence[datetime | None]) -> list[tuple[int, Segment]]:
    """One for each partition, and for each run of offsets in it."""
    found = []
    for first, end in _runs(batch.records):
        await asyncio.sleep(0)
        found.append((first, pack(batch.records[first:end], times[first:end])))
    return found


def _runs(records: Sequence[Record]) -> Iterator[tuple[int, int]]:
    """[first, end) of records that follow each other in one partition."""
    first = 0
    while first < len(records):
        end = _same_partition(records, first)
        if records[end - 1].offset - records[first].offset != end - 1 - first:  # a hole: after a rewind
            end = next(
                place for place in range(first + 1, end) if records[place].offset != records[place - 1].offset + 1
            )
        yield first, end
        first = end


def _same_partition(records: Sequence[Record], first: int) -> int:
    """Where its partition ends; those of one partition stand together."""
    partition = records[first].partition
    return bisect_left(records, True, first, key=lambda record: record.partition != partition)


def refuse(batch: PreparedBatch, errors: Mapping[int, Rejected]) -> PreparedBatch:
    """Without the events of these records, which become rejects; others of the same identity stay.

    One that follows another of its identity, which is not refused, is no first sighting and stays too: so it would, had
    they come in two batches.
    """
    if not errors:
        return batch
    left: list[tuple[int, UsageEvent]] = []
    refused: list[Reject] = []
    standing: set[bytes] = set()
    for place, event in zip(batch.places, batch.events, strict=True):
        error = errors.get(place)
        if error is None or event.key in standing:
            standing.add(event.key)
            left.append((place, event))
        else:
            refused.append(Reject(batch.batch.records[place], error))
    return replace(
        batch,
        events=[event for _, event in left],
        places=[place for place, _ in left],
        rejected=[*batch.rejected, *refused],
    )


def if_fresh(event: UsageEvent, sealed: Collection[tuple[str, Month]]) -> Disposition:
    """What becomes of an event whose identity was not seen before."""
    if event.correction is not None:
        return Disposition.CORRECTION
    if not event.stream.live:
        return Disposition.TEST
    if not event.readings:
        return Disposition.UNMETERED
    if sealed and (event.organisation_id, event.month) in sealed:
        return Disposition.ADJUSTMENT
    return Disposition.COUNTED
