"""What segments say of windows: the code that counts, run again over what was counted.

Records whose disposition is "counted" or "test" make windows, "adjustment" makes adjustments; of an event that was
corrected while its month was open, what the correction says counts. Meters are those of
today: a version counts the same hours for ever, and a new one only hours to come, so they say now what they said then.
The one exception is a test event of a type that had no meter yet; it is told by when the type's first meter was made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from services.aggregator.reconcile.archive import SegmentRow, named
from services.aggregator.reconcile.windows import LateKey, LateValue
from shared.contracts.messages.event import EventContent, decode_content
from shared.domain.errors import Rejected
from shared.kafka.records import Record
from shared.usage.corrected import Corrected
from shared.usage.event import EventReader, UsageEvent
from shared.usage.segment import Disposition

_COUNTED, _TEST = ord(Disposition.COUNTED.value), ord(Disposition.TEST.value)
_LATE, _DUPLICATE = ord(Disposition.ADJUSTMENT.value), ord(Disposition.DUPLICATE.value)
_UNMETERED = ord(Disposition.UNMETERED.value)
IN_WINDOWS = frozenset((_COUNTED, _TEST))
IN_USAGE = IN_WINDOWS | {_LATE}
AND_DUPLICATES = IN_WINDOWS | {_DUPLICATE}


@dataclass(frozen=True, slots=True)
class Terms:
    """Under what a segment is read: the catalogue, and which hours and organisations are asked about.

    `corrected`: what windows hold of corrected events; `adjusted`: what stands of those corrected after the seal.
    """

    reader: EventReader
    first_meters: Mapping[str, datetime]
    organisations: frozenset[str]
    start: datetime
    end: datetime
    corrected: Mapping[bytes, Corrected] = field(default_factory=dict)
    adjusted: Mapping[bytes, Corrected] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that was counted and is no event under this catalogue."""

    record: Record
    reason: str


def events_of(
    row: SegmentRow, records: list[Record], terms: Terms, wanted: Collection[int] = IN_USAGE
) -> Iterator[tuple[int, Record, UsageEvent] | Unreadable]:
    """Events of the asked hours with these dispositions: (letter, record, event).

    With them those that filters left out, until an amend gave them other data.
    """
    amended_too = bool(terms.corrected or terms.adjusted)
    for record, letter in zip(records, row.dispositions, strict=False):
        if letter not in wanted and not (amended_too and letter == _UNMETERED):
            continue
        try:
            event = _read(record, letter, row, terms)
        except (Rejected, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            yield Unreadable(record, f"{named(record.value)}: {error}")
            continue
        if event is not None and terms.start <= event.hour < terms.end and event.organisation_id in terms.organisations:
            yield letter, record, event


def _read(record: Record, letter: int, row: SegmentRow, terms: Terms) -> UsageEvent | None:
    content = decode_content(record.value or b"")
    made = terms.first_meters.get(content.type) if content.unmetered and letter == _TEST else None
    if made is not None and made > row.stored_at:
        return None  # of a type that had no meter yet: it is in no window
    event = terms.reader.check(content)
    found = terms.corrected.get(event.key)
    if letter == _UNMETERED and found is None and event.key not in terms.adjusted:
        return None
    return event if found is None else as_corrected(event, content, found, terms.reader)


def as_corrected(event: UsageEvent, sent: EventContent, found: Corrected, reader: EventReader) -> UsageEvent:
    """The event with what the correction says; without readings when it was taken back."""
    content = found.content(sent)
    readings = () if content is None else reader.check(content).readings
    return msgspec.structs.replace(event, readings=readings)


def is_late(letter: int) -> bool:
    return letter == _LATE


def is_duplicate(letter: int) -> bool:
    return letter == _DUPLICATE


def late_rows(record: Record, event: UsageEvent) -> Iterator[tuple[LateKey, LateValue]]:
    """The adjustments of a late event, one for each meter it feeds."""
    for reading in event.readings:
        if reading.meter.late == "reject":
            continue
        key = LateKey(event.key, reading.meter.id, reading.meter.version)
        yield (
            key,
            (
                *(event.organisation_id, event.project_id, event.subject, reading.dimensions, event.hour),
                *(reading.value, event.time, event.id, reading.distinct or None, record.partition, record.offset),
            ),
        )
