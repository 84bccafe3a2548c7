"""Count usage again from segments, for many invoices in one pass. Independent of the windows on purpose.

Only what the log and the invoices themselves say takes part: records whose disposition is "counted", below the
invoice's cut, of its organisation's projects, in its month; meters are those frozen in the document.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal, localcontext
from zoneinfo import ZoneInfo

import msgspec

from services.invoicer.calculate import LineKey, Used
from services.invoicer.document import Document
from shared.contracts.messages.event import decode_event
from shared.domain.errors import Rejected
from shared.domain.identity import Fingerprint, identity_key, read_data
from shared.domain.meter import Meter, MeterIndex
from shared.domain.money import EXACT
from shared.domain.period import Month, time_zone
from shared.kafka.records import Record
from shared.usage.read import StoredSegment
from shared.usage.seal import Cut
from shared.usage.segment import Disposition

_DayKey = tuple[str, int, date]  # meter id, version, local day


@dataclass(slots=True)
class Recount:
    """What one invoice is to be compared with: usage per meter and local day, filled by `count`."""

    organisation_id: str
    zone: ZoneInfo
    start: datetime  # the month's first instant
    end: datetime  # the next month's
    cut: Cut
    meters: MeterIndex
    unreadable: list[str] = field(default_factory=list)
    _days: dict[_DayKey, Used] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Document) -> Recount:
        zone = time_zone(document["period"]["time_zone"])
        offsets = {
            topic: {int(partition): offset for partition, offset in partitions.items()}
            for topic, partitions in document["cut"]["offsets"].items()
        }
        return cls(
            document["customer"]["organisation_id"],
            zone,
            *Month.parse(document["period"]["month"]).bounds(zone),
            Cut(document["cut"]["id"], offsets),
            MeterIndex.of(
                Meter(m["id"], m["version"], m["id"], m["event_type"], m["aggregation"], m["value_path"])
                for m in document["meters"]
            ),
        )

    def add(self, record: Record, event_type: str, time: datetime, key: bytes, data: object) -> None:
        """Count one event of the organisation if it belongs to this invoice."""
        below = self.cut.below(record.topic, record.partition, record.offset)
        if not below or not self.start <= time < self.end:
            return
        day = time.astimezone(self.zone).date()
        for meter in self.meters.by_type.get(event_type, ()):
            try:
                quantity = meter.quantity(data)
            except Rejected as error:
                self.unreadable.append(f"{_place(record)} was counted, but {error.message}")
                continue
            at = (meter.id, meter.version, day)
            before = self._days.get(at, Used(Decimal(0), 0, Fingerprint()))
            self._days[at] = Used(before.quantity + quantity, before.events + 1, before.fingerprint.with_key(key))

    def used(self, keys: Sequence[LineKey]) -> dict[LineKey, Used]:
        """Usage of each line that is a meter's."""
        return {
            key: _sum(
                used
                for (meter_id, version, day), used in self._days.items()
                if (f"meter:{meter_id}", version) == (key.item, key.meter_version)
                and key.first_day <= day <= key.last_day
            )
            for key in keys
            if key.meter_version is not None
        }

    def used_on(self, meter: Meter, first_day: date, last_day: date) -> bool:
        """Whether the meter has usage on these local days (both inclusive)."""
        return any(
            (meter_id, version) == (meter.id, meter.version) and first_day <= day <= last_day
            for meter_id, version, day in self._days
        )

    def uncovered(self, keys: Sequence[LineKey]) -> list[str]:
        """Usage that no line of the invoice covers, in words."""
        left = [
            (at, used)
            for at, used in sorted(self._days.items())
            if not any(
                (f"meter:{at[0]}", at[1]) == (key.item, key.meter_version) and key.first_day <= at[2] <= key.last_day
                for key in keys
            )
        ]
        return [
            f"meter {meter_id} has usage of {used.quantity} ({used.events} events) on {day}, which no line covers"
            for (meter_id, _, day), used in left
        ]


def count(segment: StoredSegment, recounts: Mapping[str, Sequence[Recount]], owners: Mapping[str, str]) -> None:
    """Add a segment's records. `recounts` by organisation, `owners` project -> organisation."""
    with localcontext(EXACT):
        for record, disposition in segment:
            if disposition is not Disposition.COUNTED or record.value is None:
                continue
            try:
                stamped = decode_event(record.value)
                data = read_data(bytes(stamped.data))
            except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                # Whose it was cannot be told, so every invoice of this pass is in doubt.
                for recount in _all(recounts):
                    recount.unreadable.append(f"{_place(record)} was counted, but is no event: {error}")
                continue
            wanted = recounts.get(owners.get(stamped.project, ""), ()) if stamped.live else ()
            if not wanted:
                continue
            key = identity_key(stamped.project, stamped.live, stamped.source, stamped.id)
            for recount in wanted:
                recount.add(record, stamped.type, stamped.time, key, data)


def _sum(parts: Iterable[Used]) -> Used:
    with localcontext(EXACT):
        quantity, events, fingerprint = Decimal(0), 0, Fingerprint()
        for part in parts:
            quantity, events, fingerprint = (
                quantity + part.quantity,
                events + part.events,
                fingerprint + part.fingerprint,
            )
    return Used(quantity, events, fingerprint)


def _all(recounts: Mapping[str, Sequence[Recount]]) -> Iterable[Recount]:
    return (recount for of_organisation in recounts.values() for recount in of_organisation)


def _place(record: Record) -> str:
    return f"{record.topic}[{record.partition}] at {record.offset}"
