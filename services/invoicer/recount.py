"""Count usage again from segments, for many invoices in one pass. Independent of the windows on purpose.

Only what the log and the invoices themselves say takes part: records whose disposition is "counted" (for a meter that
was back-filled, below its own cut, also those that no meter counted when they came), below the invoice's cut, of its
organisation's projects, in its month; meters are those frozen in the document. Of an event that was corrected before
the seal, what the last correction below the cut says counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal, localcontext
from zoneinfo import ZoneInfo

import msgspec

from services.invoicer.calculate import NOTHING, LineKey, Used
from services.invoicer.document import Document, offsets_read
from services.invoicer.frozen_meter import thawed_meter
from shared.contracts.messages.event import decode_event
from shared.domain.errors import Rejected
from shared.domain.identity import identity_key, read_data
from shared.domain.meter import ZERO, Meter, MeterIndex
from shared.domain.period import Month, day_start, local_hour_start, time_zone
from shared.kafka.records import Record
from shared.usage.corrected import Corrected
from shared.usage.parts import SUMS, Parts, Period, quantity
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
    levels: dict[tuple[str, int], Decimal]  # what each weighted_sum carries into the month, or into its first hour
    backfilled: dict[tuple[str, int], Cut] = field(default_factory=dict)  # below it a back-fill counted for the meter
    corrected: Mapping[bytes, Corrected] = field(default_factory=dict)  # before the seal, by identity
    unreadable: list[str] = field(default_factory=list)
    _days: dict[_DayKey, Parts] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Document) -> Recount:
        zone = time_zone(document["period"]["time_zone"])
        offsets = offsets_read(document["cut"]["offsets"])
        return cls(
            document["customer"]["organisation_id"],
            zone,
            *Month.parse(document["period"]["month"]).bounds(zone),
            Cut(document["cut"]["id"], offsets),
            MeterIndex.of(map(thawed_meter, document["meters"])),
            {(said["id"], said["version"]): Decimal(said["level"]) for said in document["meters"] if "level" in said},
            {
                (said["id"], said["version"]): Cut(0, offsets_read(said["backfilled_below"]))
                for said in document["meters"]
                if "backfilled_below" in said
            },
        )

    def add(
        self,
        record: Record,
        event_type: str,
        time: datetime,
        id: str,
        key: bytes,
        data: object,
        *,
        counted: bool = True,
    ) -> None:
        """Count one event of the organisation if it belongs to this invoice.

        One that no meter counted when it came (not `counted`) is counted by those that were back-filled.
        """
        below = self.cut.below(record.topic, record.partition, record.offset)
        if not below or not self.start <= time < self.end:
            return
        found = self.corrected.get(key)
        if found is not None and not counted and not self.cut.below(record.topic, found.partition, found.offset):
            found = None  # of an event that is in no sum, and corrected when the month was closed: nothing changed
        if found is not None:
            if not self.cut.below(record.topic, found.partition, found.offset):
                self.unreadable.append(f"{_place(record)} was corrected for this invoice, but after its cut")
            if found.data is None:
                return
            data = read_data(found.data)
        day, hour = time.astimezone(self.zone).date(), local_hour_start(time, self.zone)
        for meter in self.meters.by_type.get(event_type, ()):
            fill = self.backfilled.get((meter.id, meter.version))
            filled = fill is not None and fill.below(record.topic, record.partition, record.offset)
            if not counted and not filled:
                continue
            try:
                reading = meter.reading(data) if meter.counts_at(hour) else None
            except Rejected as error:
                if filled:  # others counted it: it is none of this meter's
                    continue
                self.unreadable.append(f"{_place(record)} was counted, but {error.message}")
                continue
            if reading is not None:
                self._days.setdefault((meter.id, meter.version, day), Parts()).add(reading, key, time, id)

    def used(self, keys: Sequence[LineKey]) -> dict[LineKey, Used]:
        """Usage of each line that is a meter's."""
        versions = {
            (f"meter:{meter.id}", meter.version): meter for all in self.meters.by_type.values() for meter in all
        }
        return {
            key: self._used(versions[key.item, key.meter_version], key.first_day, key.last_day)
            for key in keys
            if key.meter_version is not None and (key.item, key.meter_version) in versions
        }

    def _used(self, meter: Meter, first_day: date, last_day: date) -> Used:
        parts, level = Parts(), self.levels.get((meter.id, meter.version), ZERO)
        with localcontext(SUMS):
            for (meter_id, version, day), found in self._days.items():
                if (meter_id, version) != (meter.id, meter.version):
                    continue
                if first_day <= day <= last_day:
                    parts.merge(found)
                elif day < first_day:
                    level += found.sum
        start, end = day_start(first_day, self.zone), day_start(last_day + timedelta(days=1), self.zone)
        period = Period(
            max(start, meter.effective_from or start), min(end, meter.effective_until or end), self.end - self.start
        )
        if period.start >= period.end:
            return NOTHING
        found_quantity = quantity(meter.aggregation, parts, period, level=level)
        return Used(ZERO if found_quantity is None else found_quantity, parts.count, parts.fingerprint)

    def used_on(self, meter: Meter, first_day: date, last_day: date) -> bool:
        """Whether the meter has usage on these local days (both inclusive): events, or a level that is carried."""
        used = self._used(meter, first_day, last_day)
        return used.events > 0 or used.quantity != 0

    def uncovered(self, keys: Sequence[LineKey]) -> list[str]:
        """Usage that no line of the invoice covers, in words."""
        left = [
            (at, self._days[at])
            for at in sorted(self._days)
            if not any(
                (f"meter:{at[0]}", at[1]) == (key.item, key.meter_version) and key.first_day <= at[2] <= key.last_day
                for key in keys
            )
        ]
        return [
            f"meter {meter_id} has usage of {parts.sum} ({parts.count} events) on {day}, which no line covers"
            for (meter_id, _, day), parts in left
        ]


def count(segment: StoredSegment, recounts: Mapping[str, Sequence[Recount]], owners: Mapping[str, str]) -> None:
    """Add a segment's records. `recounts` by organisation, `owners` project -> organisation."""
    # What filters left out may have been given data that they take; what had no meter yet may have one that came later.
    more = any(recount.corrected or recount.backfilled for recount in _all(recounts))
    wanted_letters = (Disposition.COUNTED, Disposition.UNMETERED) if more else (Disposition.COUNTED,)
    with localcontext(SUMS):
        for record, disposition in segment:
            if disposition not in wanted_letters or record.value is None:
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
            counted = disposition is Disposition.COUNTED or not stamped.unmetered
            for recount in wanted:
                recount.add(record, stamped.type, stamped.time, stamped.id, key, data, counted=counted)


def _all(recounts: Mapping[str, Sequence[Recount]]) -> Iterable[Recount]:
    return (recount for of_organisation in recounts.values() for recount in of_organisation)


def _place(record: Record) -> str:
    return f"{record.topic}[{record.partition}] at {record.offset}"
