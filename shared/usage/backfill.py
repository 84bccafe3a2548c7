"""Back-fills: meters that count events from before they were made, up to a cut, segment by segment.

While one runs, windows hold of a segment what its batch has counted and, where the back-fill has read it, what the new
meters say. Whoever counts again asks here how the windows know a segment, so that both agree at every moment.

    below the cut    the back-fill's: counted, test and unmetered events; what the meter refuses is left out. Late ones
                     (adjustments) never: their months were sealed before the meter was
    from the cut on  every batch's: the meter is one like all others
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import msgspec

from shared.contracts.messages.event import EventContent
from shared.domain.forgiving import ForgivingMeter
from shared.domain.meter import Meter, MeterIndex
from shared.postgres.pool import Connection
from shared.usage.event import EventReader, Metering, UsageEvent
from shared.usage.seal import Cut, cut_from

MeterKey = tuple[str, int]
"""Id and version."""


@dataclass(frozen=True, slots=True)
class Backfill:
    """Meters that were made together. `ends`: the cut, by partition of `topic`; `done`: all below is counted.

    `stored_before`: a segment that was stored later fills a hole of the archive, and its batch counted with these
    meters already.
    """

    cut_id: int
    topic: str
    ends: Mapping[int, int]
    done: Mapping[int, int]
    stored_before: datetime
    meters: frozenset[MeterKey]
    finished: bool

    def owns(self, topic: str, partition: int, offset: int, stored_at: datetime) -> bool:
        """Whether the record is the back-fill's to count."""
        return topic == self.topic and offset < self.ends.get(partition, 0) and stored_at < self.stored_before

    def has_counted(self, partition: int, offset: int) -> bool:
        """Of a record that it owns."""
        return self.finished or offset < self.done.get(partition, 0)


async def read_backfills(connection: Connection) -> tuple[Backfill, ...]:
    """All that there ever were, as of the caller's snapshot."""
    rows = await (
        await connection.execute(
            """
            SELECT cut.id, fill.topic, cut.offsets -> fill.topic, fill.stored_before, fill.finished_at IS NOT NULL,
                   (SELECT jsonb_object_agg(partition, next_offset) FROM usage.backfill_progress
                    WHERE backfill_progress.cut_id = cut.id),
                   (SELECT array_agg(meter_id || '@' || meter_version) FROM usage.backfill_meter
                    WHERE backfill_meter.cut_id = cut.id)
            FROM usage.backfill AS fill JOIN usage.cut ON cut.id = fill.cut_id ORDER BY cut.id
            """
        )
    ).fetchall()
    return tuple(
        Backfill(
            cut_id,
            topic,
            _by_partition(ends),
            _by_partition(done),
            before,
            frozenset((name.rpartition("@")[0], int(name.rpartition("@")[2])) for name in meters),
            finished,
        )
        for cut_id, topic, ends, before, finished, done, meters in rows
    )


def _by_partition(said: Mapping[str, int] | None) -> dict[int, int]:
    return {int(partition): offset for partition, offset in (said or {}).items()}


async def made_after(connection: Connection, cut_id: int) -> frozenset[MeterKey]:
    """Meters that were back-filled after this cut: what was sealed under it knows nothing of them, for ever."""
    rows = await (
        await connection.execute(
            "SELECT meter_id, meter_version FROM usage.backfill_meter WHERE cut_id > %s", (cut_id,)
        )
    ).fetchall()
    return frozenset((meter, version) for meter, version in rows)


async def cuts_of_backfills(connection: Connection) -> dict[MeterKey, Cut]:
    """Of every meter that was back-filled: below its cut the back-fill counted."""
    rows = await (
        await connection.execute(
            """
            SELECT meter_id, meter_version, cut.id, cut.offsets
            FROM usage.backfill_meter JOIN usage.cut ON cut.id = backfill_meter.cut_id
            """
        )
    ).fetchall()
    return {(meter, version): cut_from(cut_id, offsets) for meter, version, cut_id, offsets in rows}


class View:
    """How windows know the events of a segment: under which meters, of which some came later (`filled`)."""

    def __init__(
        self,
        metering: Metering,
        meters: Iterable[Meter],
        filled: frozenset[MeterKey] = frozenset(),
        reader: EventReader | None = None,
    ) -> None:
        self._metering, self._meters, self.filled, self._given = metering, tuple(meters), filled, reader

    @cached_property
    def metering(self) -> Metering:
        return self._of(self._meters)

    @cached_property
    def _reader(self) -> EventReader:
        return self._given or EventReader(self.metering)

    @cached_property
    def _filled_only(self) -> EventReader:
        return EventReader(self._of(meter for meter in self._meters if key_of(meter) in self.filled))

    @cached_property
    def _without_filled(self) -> EventReader:
        return EventReader(self._of(meter for meter in self._meters if key_of(meter) not in self.filled))

    def _of(self, meters: Iterable[Meter]) -> Metering:
        by_type: dict[str, list[Meter]] = {}
        for meter in meters:
            by_type.setdefault(meter.event_type, []).append(
                ForgivingMeter.of(meter) if key_of(meter) in self.filled else meter
            )
        return Metering(self._metering.owners, MeterIndex({name: tuple(found) for name, found in by_type.items()}))

    def counted(self, content: EventContent) -> UsageEvent:
        """An event that meters have counted. Raises Rejected."""
        return self._reader.check(content)

    def uncounted(self, content: EventContent) -> UsageEvent:
        """An event that no meter counted when it came: what those say that came later. Raises Rejected."""
        return self._filled_only.check(msgspec.structs.replace(content, unmetered=True))

    def late(self, content: EventContent) -> UsageEvent:
        """An event of a sealed month: nothing for those that came later. Raises Rejected."""
        return self._without_filled.check(content)


async def read_views(connection: Connection, metering: Metering, reader: EventReader | None = None) -> Views:
    """As of the caller's snapshot, in which `metering` was read; `reader`: one of all of it, where there is one."""
    return Views(metering, await read_backfills(connection), reader)


def key_of(meter: Meter) -> MeterKey:
    return (meter.id, meter.version)


class Views:
    """Views by place, under one catalogue and one state of the back-fills. Not for several threads."""

    def __init__(self, metering: Metering, backfills: Sequence[Backfill], reader: EventReader | None = None) -> None:
        self._metering, self.backfills, self._reader = metering, backfills, reader
        self._meters = [meter for found in metering.meters.by_type.values() for meter in found]
        self._known: dict[tuple[frozenset[MeterKey], frozenset[MeterKey]], View] = {}

    @property
    def unfinished(self) -> frozenset[MeterKey]:
        """Meters whose windows are not whole yet."""
        return frozenset(key for one in self.backfills if not one.finished for key in one.meters)

    def waiting(self, event_type: str, topic: str, partition: int, offset: int, stored_at: datetime) -> list[str]:
        """Meters (ids) of this type whose back-fill has not come to this record yet."""
        behind = {
            key
            for one in self.backfills
            if one.owns(topic, partition, offset, stored_at) and not one.has_counted(partition, offset)
            for key in one.meters
        }
        return sorted(
            meter.id for meter in self._metering.meters.by_type.get(event_type, ()) if key_of(meter) in behind
        )

    def at(self, topic: str, partition: int, offset: int, stored_at: datetime) -> View:
        """Of a record, or of all of the segment that it is in: cuts and progress lie between segments."""
        hidden: frozenset[MeterKey] = frozenset()
        filled: frozenset[MeterKey] = frozenset()
        for one in self.backfills:
            if one.owns(topic, partition, offset, stored_at):
                if one.has_counted(partition, offset):
                    filled |= one.meters
                else:
                    hidden |= one.meters
        view = self._known.get((hidden, filled))
        if view is None:
            visible = [meter for meter in self._meters if key_of(meter) not in hidden]
            reader = None if hidden or filled else self._reader
            view = self._known[hidden, filled] = View(self._metering, visible, filled, reader)
        return view
