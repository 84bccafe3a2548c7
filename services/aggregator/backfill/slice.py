"""What new meters say of a stretch of the archive. Pure, but for the segments it is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from services.aggregator.corrections.decide import Applied
from services.aggregator.reconcile.archive import SegmentRow
from shared.contracts.messages.event import EventContent, decode_content
from shared.domain.errors import Fatal, Rejected
from shared.domain.identity import read_data
from shared.domain.meter import Meter
from shared.usage.backfill import MeterKey, View, key_of
from shared.usage.event import UsageEvent
from shared.usage.segment import Disposition, unpack

READ = frozenset(ord(each.value) for each in (Disposition.COUNTED, Disposition.TEST, Disposition.UNMETERED))


@dataclass(slots=True)
class Slice:
    """Events of the new meters' types, as they were sent, in log order; which meter has refused how many."""

    events: list[tuple[EventContent, UsageEvent]] = field(default_factory=list)
    refused: Counter[MeterKey] = field(default_factory=Counter)
    records: int = 0

    @property
    def projects(self) -> set[str]:
        return {event.project_id for _, event in self.events}

    @property
    def keys(self) -> list[bytes]:
        return [event.key for _, event in self.events]

    def as_they_stand(self, applied: Mapping[bytes, Sequence[Applied]], view: View) -> list[UsageEvent]:
        """With what corrections have made of them in windows; without those that were taken back."""
        return [_as_it_stands(content, event, applied.get(event.key, ()), view) for content, event in self.events]


def read(rows: Iterable[SegmentRow], view: View, meters: Sequence[Meter]) -> Slice:
    """Raises Fatal for a segment that cannot be read: without it the meter would be wrong."""
    by_type: dict[str, list[Meter]] = {}
    for meter in meters:
        by_type.setdefault(meter.event_type, []).append(meter)
    found = Slice()
    for row in rows:
        found.records += row.record_count
        records = unpack(row.topic, row.partition, row.payload, row.sha256)
        for record, letter in zip(records, row.dispositions, strict=True):
            if letter not in READ:
                continue
            try:
                content = decode_content(record.value or b"")
                wanted = by_type.get(content.type)
                if wanted is None:
                    continue
                event = view.uncounted(content)
            except (Rejected, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                where = f"{row.topic}[{row.partition}] at {record.offset}"
                raise Fatal(f"{where} was counted, and is no event today: {error}") from error
            found.events.append((content, event))
            if len(event.readings) < len(wanted):
                found.refused.update(key_of(meter) for meter in wanted if _refuses(meter, content))
    return found


def _refuses(meter: Meter, content: EventContent) -> bool:
    try:
        meter.reading(content.data)
    except Rejected:
        return True
    return False


def _as_it_stands(content: EventContent, event: UsageEvent, applied: Sequence[Applied], view: View) -> UsageEvent:
    """One corrected after the seal stays as it was in the windows: adjustments lead from there."""
    for one in applied:
        if one.data is None and one.applied_as != "adjustment":
            return msgspec.structs.replace(event, readings=())
    standing = [one.data for one in applied if one.applied_as != "adjustment" and one.data is not None]
    if not standing:
        return event
    return view.uncounted(msgspec.structs.replace(content, data=read_data(standing[-1])))
