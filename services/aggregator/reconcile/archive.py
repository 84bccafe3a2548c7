"""The archive against the log, offset range by offset range, and against itself. Pure.

A segment is the records of the log in one block, so equal ones are told by comparing the blocks; only where those
differ is a segment taken apart, and the records that differ are named.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter

import msgspec

from services.aggregator.reconcile.finding import MOST_NAMED, Finding, FindingClass, of_offsets
from shared.contracts.messages.event import decode_event
from shared.domain.errors import Fatal
from shared.kafka.records import Record
from shared.kafka.scan import LogRecord
from shared.usage.segment import block_of, unpack, verified

_row = attrgetter("offset", "timestamp", "key", "value", "headers")

Run = tuple[int, int]
"""First and last offset, both inclusive."""


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """A row of usage.segment as it is stored."""

    topic: str
    partition: int
    first_offset: int
    last_offset: int
    record_count: int
    dispositions: bytes
    sha256: bytes
    payload: bytes
    earliest: datetime | None
    stored_at: datetime

    @property
    def is_dense(self) -> bool:
        """Whether it holds every offset of its range; after a rewind it may hold only what others left out."""
        return self.record_count == self.last_offset - self.first_offset + 1


def open_segment(row: SegmentRow) -> tuple[list[Record] | None, Finding | None]:
    """Its records, None when they cannot be had, and what is wrong with it."""

    def damaged(what: str) -> Finding:
        text = f"the segment of partition {row.partition}, offsets {row.first_offset} to {row.last_offset}: {what}"
        return of_offsets(FindingClass.ARCHIVE_DAMAGED, row.partition, row.first_offset, row.last_offset, text)

    try:
        records = unpack(row.topic, row.partition, row.payload, row.sha256)
    except (Fatal, msgspec.MsgspecError) as error:
        return None, damaged(str(error))
    if len(records) != row.record_count:
        return records, damaged(f"it says {row.record_count} records and holds {len(records)}")
    if len(row.dispositions) != len(records):
        return records, damaged(f"{len(row.dispositions)} dispositions for {len(records)} records")
    if (records[0].offset, records[-1].offset) != (row.first_offset, row.last_offset):
        return records, damaged(f"it holds offsets {records[0].offset} to {records[-1].offset}")
    return records, None


def is_equal(row: SegmentRow, log: Sequence[LogRecord]) -> bool:
    """Whether the segment is whole and holds exactly these records: nearly always, so without taking it apart."""
    if not row.is_dense or len(log) != row.record_count or len(row.dispositions) != row.record_count:
        return False
    try:
        stored = verified(row.topic, row.partition, row.payload, row.sha256)
    except Fatal:
        return False
    return stored == block_of(map(_row, log))


def compare(row: SegmentRow, records: list[Record] | None, log: Sequence[LogRecord], log_start: int) -> list[Finding]:
    """The segment's records against those of the log between its first and last offset, one by one.

    Offsets below `log_start` are gone by retention and say nothing.
    """
    here = {one.offset: one for one in log}
    findings = []
    missing: list[int] = []
    for record in records or ():
        if record.offset < log_start:
            continue
        other = here.get(record.offset)
        if other is None:
            missing.append(record.offset)
        elif changed := _changed(record, other):
            text = (
                f"{', '.join(changed)} of {named(other.value)} (partition {row.partition}, offset {record.offset}) "
                "differ between the archive and the log"
            )
            findings.append(
                of_offsets(
                    FindingClass.ARCHIVE_DIFFERS,
                    *(row.partition, record.offset, record.offset, text),
                    in_log=named(other.value),
                    in_archive=named(record.value),
                    changed=changed,
                )
            )
    for first, last in runs(missing):
        text = f"partition {row.partition}, offsets {first} to {last} are in the archive and no longer in the log"
        findings.append(of_offsets(FindingClass.LOG_MISSING, row.partition, first, last, text))
    return findings


def _changed(record: Record, other: LogRecord) -> list[str]:
    headers = tuple((name, value or b"") for name, value in other.headers)
    pairs = {
        "key": (record.key, other.key),
        "value": (record.value, other.value),
        "headers": (record.headers, headers),
        "timestamp": (record.timestamp_ms, other.timestamp),
    }
    return [name for name, (one, two) in pairs.items() if one != two]


def named(value: bytes | None) -> str:
    """The event of a record for people: project, source and id, or that it is none."""
    try:
        event = decode_event(value or b"")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return "a record that is no event"
    return f"event {event.id} of {event.source} in {event.project}"


def runs(offsets: Iterable[int]) -> Iterator[Run]:
    """Ascending offsets as stretches without a gap."""
    first = last = -1
    for offset in offsets:
        if offset != last + 1 or last < 0:
            if last >= 0:
                yield first, last
            first = offset
        last = offset
    if last >= 0:
        yield first, last


@dataclass(slots=True)
class Coverage:
    """Whether segments hold each offset of [start, end) once. They come in order of their first offset."""

    start: int
    missing: list[Run] = field(default_factory=list)
    overlapping: list[Run] = field(default_factory=list)
    _next: int = field(init=False)
    _waiting: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._next = self.start

    def add(self, row: SegmentRow, records: list[Record] | None) -> None:
        whole = row.is_dense or records is None
        mine = [(row.first_offset, row.last_offset)] if whole else list(runs(one.offset for one in records or ()))
        for run in mine:
            heapq.heappush(self._waiting, run)
        while self._waiting and self._waiting[0][0] <= row.first_offset:
            self._settle(*heapq.heappop(self._waiting))

    def finish(self, end: int) -> None:
        while self._waiting:
            self._settle(*heapq.heappop(self._waiting))
        if self._next < end:
            self.missing.append((self._next, end - 1))

    def _settle(self, first: int, last: int) -> None:
        first = max(first, self.start)
        if last < first:
            return
        if first > self._next:
            self.missing.append((self._next, first - 1))
        elif first < self._next:
            self.overlapping.append((first, min(last, self._next - 1)))
        self._next = max(self._next, last + 1)


def hole(partition: int, run: Run, *, group: str, topic: str, log_start: int) -> Finding:
    """Offsets that no segment holds, and what brings them back while the log has them."""
    first, last = run
    text = f"partition {partition}, offsets {first} to {last}: below the stored position, but no segment holds them"
    if first >= log_start:
        command = (
            f"khata offsets rewind --group {group} --topic {topic} --partition {partition} --to {first} "
            "--reason 'hole in the archive'"
        )
        text += f"; the log still does: stop the aggregators, then `{command}`, start them"
        return of_offsets(FindingClass.ARCHIVE_MISSING, partition, first, last, text, command=command)
    return of_offsets(
        FindingClass.ARCHIVE_MISSING, partition, first, last, f"{text}, and the log begins at {log_start}"
    )


def names_of(log: Iterable[LogRecord], run: Run) -> list[str]:
    """Events of the log in a hole, the first MOST_NAMED."""
    found = []
    for one in log:
        if run[0] <= one.offset <= run[1]:
            found.append(named(one.value))
            if len(found) == MOST_NAMED:
                break
    return found
