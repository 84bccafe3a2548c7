"""What segments say of windows: the code that counts, run again over what was counted.

Records whose disposition is "counted" or "test" make windows, "adjustment" makes adjustments; of an event that was
corrected while its month was open, what the correction says counts. Meters are those of
today: a version counts the same hours for ever, and a new one only hours to come, so they say now what they said then.
The exceptions are a test event of a type that had no meter yet, told by when the type's first meter was made, and
meters that were back-filled: they count what their back-fill has read, unmetered events too (shared/usage/backfill.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from services.aggregator.reconcile.archive import SegmentRow, named
from services.aggregator.reconcile.windows import LateKey, LateValue
from shared.contracts.messages.event import EventContent, decode_content
from shared.domain.errors import Rejected
from shared.kafka.records import Record
from shared.usage.backfill import Views
from shared.usage.corrected import Corrected
from shared.usage.event import EventReader, UsageEvent
from shared.usage.fold import WindowKey
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
    views: Views | None = None  # none: there never was a back-fill

    def is_filling(self, key: WindowKey) -> bool:
        """Whether the window's meter is being back-filled: what it holds changes with every slice."""
        return self.views is not None and (key.meter_id, key.meter_version) in self.views.unfinished

    def reads(self, row: SegmentRow, letter: int, content: EventContent) -> Callable[[EventContent], UsageEvent]:
        """How windows know an event of the segment, as it was sent and as it was corrected."""
        if self.views is None or not self.views.backfills:  # nearly always
            return self.reader.check
        view = self.views.at(row.topic, row.partition, row.first_offset, row.stored_at)
        if self._is_meterless(row, letter, content):
            return view.uncounted
        return view.late if letter == _LATE else view.counted

    def has_none(self, row: SegmentRow, letter: int, content: EventContent) -> bool:
        """Whether no meter has counted it, whatever corrections say: there was none, and none came later."""
        if not self._is_meterless(row, letter, content):
            return False
        return self.views is None or not self.views.at(row.topic, row.partition, row.first_offset, row.stored_at).filled

    def _is_meterless(self, row: SegmentRow, letter: int, content: EventContent) -> bool:
        """Whether its type had no meter when it was counted."""
        if letter != _TEST or not content.unmetered:
            return letter == _UNMETERED and content.unmetered
        made = self.first_meters.get(content.type)
        return made is not None and made > row.stored_at


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that was counted and is no event under this catalogue."""

    record: Record
    reason: str


def events_of(
    row: SegmentRow, records: list[Record], terms: Terms, wanted: Collection[int] = IN_USAGE
) -> Iterator[tuple[int, Record, UsageEvent] | Unreadable]:
    """Events of the asked hours with these dispositions: (letter, record, event).

    With them those that no meter counted when they came, where an amend or a back-fill has changed that.
    """
    filled = terms.views is not None and terms.views.backfills
    unmetered_too = _COUNTED in wanted and bool(terms.corrected or terms.adjusted or filled)
    for record, letter in zip(records, row.dispositions, strict=False):
        if letter not in wanted and not (letter == _UNMETERED and unmetered_too):
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
    if terms.has_none(row, letter, content):
        return None
    read = terms.reads(row, letter, content)
    event = read(content)
    found = terms.corrected.get(event.key)
    if found is not None:
        return as_corrected(event, content, found, read)
    if letter == _UNMETERED and not event.readings and event.key not in terms.adjusted:
        return None
    return event


def as_corrected(
    event: UsageEvent, sent: EventContent, found: Corrected, read: Callable[[EventContent], UsageEvent]
) -> UsageEvent:
    """The event with what the correction says; without readings when it was taken back."""
    content = found.content(sent)
    readings = () if content is None else read(content).readings
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
