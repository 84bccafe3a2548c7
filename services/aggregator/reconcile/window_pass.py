"""Archive against windows: segments folded again, some hours at a time, held against the rows of those hours.

Each piece is one snapshot: windows and archive change in the same transactions, so inside it they must agree, while
batches go on. A piece has so many hours that its windows fit in memory; one hour is the least.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from services.aggregator.reconcile import collector, refold, store, windows
from services.aggregator.reconcile.adjustments import Expected
from services.aggregator.reconcile.archive import open_segment
from services.aggregator.reconcile.finding import Finding, FindingClass, Findings, of_offsets
from services.aggregator.reconcile.refold import Terms, Unreadable, events_of
from services.aggregator.reconcile.windows import Difference, EventRef, LateKey, LateValue
from shared.domain.period import Month
from shared.postgres.pool import Connection, Database
from shared.usage import corrected
from shared.usage.backfill import read_views
from shared.usage.event import EventReader, UsageEvent
from shared.usage.fold import WindowKey, fold
from shared.usage.metering import read_metering
from shared.usage.parts import Parts
from shared.usage.seal import sealed_months

WINDOWS_AT_ONCE = 100_000
HOURS_AT_ONCE = 24
HOUR = timedelta(hours=1)
MOST_EXPLAINED = 200  # windows of one piece whose ids are looked for


Hours = tuple[datetime, datetime]
"""[start, end) of the starts of hours."""


@dataclass(slots=True)
class Total:
    """Of one organisation, project and meter: what the archive and the windows say."""

    archive_events: int = 0
    window_events: int = 0
    windows: int = 0
    differing: int = 0


@dataclass(slots=True)
class Compared:
    """What the window pass saw. `totals` by (organisation, project, live, meter)."""

    findings: Findings = field(default_factory=Findings)
    differences: list[Difference] = field(default_factory=list)
    events: int = 0
    windows: int = 0
    adjustments: int = 0
    totals: dict[tuple[str, str, bool, str], Total] = field(default_factory=dict)


async def compare_windows(
    database: Database,
    topic: str,
    hours: Sequence[Hours],
    organisations: Sequence[str] | None,
    told: Callable[[int], None],
) -> Compared:
    """Windows and adjustments whose hour starts in one of `hours`, which share none. Raises DatabaseAway."""
    found = Compared()
    async with database.transaction() as connection:
        await store.snapshot(connection)
        metering = await read_metering(connection)
        mine = sorted(organisations or {owner.organisation_id for owner in metering.owners.values()})
        cut = [
            piece
            for start, end in hours
            for piece in pieces(start, end, await store.windows_by_hour(connection, mine, start, end))
        ]
    for first, after in cut:
        async with database.transaction() as connection:
            await store.snapshot(connection)
            metering = await read_metering(connection)
            terms = Terms(
                EventReader(metering),
                await store.first_meters(connection),
                frozenset(mine),
                first,
                after,
                await corrected.in_windows(connection, mine, first, after),
                await corrected.after_seal(connection, mine, first, after),
                views=await read_views(connection, metering),
            )
            with collector.aside():
                await _piece(connection, topic, terms, found, told)
    return found


def older(touched: Collection[datetime], before: datetime, most: int) -> tuple[list[Hours], int]:
    """Hours before `before` in which an event of one of the UTC hours `touched` may lie, the latest `most` of them.

    And how many are left out. A local hour begins up to an hour before the UTC hour of its event.
    """
    chosen = sorted(touched)[-most:] if most else []
    found: list[Hours] = []
    for hour in chosen:
        start, end = hour - HOUR, min(hour + HOUR, before)
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], end)
        elif start < end:
            found.append((start, end))
    return found, len(touched) - len(chosen)


def pieces(start: datetime, end: datetime, by_hour: Mapping[datetime, int]) -> Iterator[tuple[datetime, datetime]]:
    """[start, end) cut before hours so that no piece has more than WINDOWS_AT_ONCE windows or HOURS_AT_ONCE hours."""
    first, held = start, 0
    for hour, count in sorted(by_hour.items()):
        while hour - first >= HOURS_AT_ONCE * HOUR:
            yield first, first + HOURS_AT_ONCE * HOUR
            first, held = first + HOURS_AT_ONCE * HOUR, 0
        if held and held + count > WINDOWS_AT_ONCE and hour > first:
            yield first, hour
            first, held = hour, 0
        held += count
    while end - first > HOURS_AT_ONCE * HOUR:
        yield first, first + HOURS_AT_ONCE * HOUR
        first += HOURS_AT_ONCE * HOUR
    if first < end:
        yield first, end


async def _piece(
    connection: Connection, topic: str, terms: Terms, found: Compared, told: Callable[[int], None]
) -> None:
    archive, late, adjusted = await _refolded(connection, topic, terms, found, told)
    organisations = sorted(terms.organisations)
    for key, parts in archive.items():
        _total(found, key).archive_events += parts.count
    dirty = await store.dirty_windows(connection, organisations, terms.start, terms.end)
    stored = [
        (key, windows.without_extremes(parts, archive.get(key)) if key in dirty else parts)
        async for key, parts in store.windows(connection, organisations, terms.start, terms.end)
    ]
    for key, parts in stored:
        total = _total(found, key)
        total.window_events += parts.count
        total.windows += 1
    found.windows += len(stored)
    differences = sorted(windows.compare(stored, archive), key=lambda one: one.key)
    del stored, archive
    await _explain(connection, topic, terms, differences, found)
    kept = await store.adjustments(connection, organisations, terms.start, terms.end)
    found.adjustments += len(kept)
    for finding in windows.compare_late(kept, late):
        found.findings.add(finding)
    if terms.adjusted:
        signed = await store.standing_adjustments(connection, organisations, terms.start, terms.end)
        for finding in adjusted.compare(signed):
            found.findings.add(finding)


def _total(found: Compared, key: WindowKey) -> Total:
    return found.totals.setdefault((key.organisation_id, key.project_id, key.live, key.meter_id), Total())


async def _refolded(
    connection: Connection, topic: str, terms: Terms, found: Compared, told: Callable[[int], None]
) -> tuple[dict[WindowKey, Parts], dict[LateKey, LateValue], Expected]:
    archive: dict[WindowKey, Parts] = {}
    adjusted = Expected()
    late: dict[LateKey, LateValue] = {}
    async for row in store.segments_by_time(connection, topic, terms.start, terms.end + HOUR):
        records, _ = open_segment(row)
        if records is None:
            found.findings.add(_unreadable_segment(row.partition, row.first_offset, row.last_offset, terms))
            continue
        counted: list[UsageEvent] = []
        for one in events_of(row, records, terms):
            if isinstance(one, Unreadable):
                found.findings.add(_unreadable(one, terms))
                continue
            letter, record, event = one
            adjusted.add(letter, record, event, terms, row)
            if refold.is_late(letter):
                late.update(refold.late_rows(record, event))
            else:
                counted.append(event)
        windows.merge(archive, fold(counted))
        found.events += len(counted)
        told(row.record_count)
    return archive, late, adjusted


def _unreadable(one: Unreadable, terms: Terms) -> Finding:
    record = one.record
    text = f"partition {record.partition}, offset {record.offset} was counted, but is no event today: {one.reason}"
    made = of_offsets(FindingClass.EVENT_UNREADABLE, record.partition, record.offset, record.offset, text)
    return _at(made, terms.start)


def _unreadable_segment(partition: int, first: int, last: int, terms: Terms) -> Finding:
    text = f"partition {partition}, offsets {first} to {last}: the segment cannot be read, so its windows are in doubt"
    return _at(of_offsets(FindingClass.EVENT_UNREADABLE, partition, first, last, text), terms.start)


def _at(made: Finding, hour: datetime) -> Finding:
    """With an hour of the period, so that a later look at that hour can tell that it is gone."""
    return Finding(
        *(made.key, made.found, made.text),
        hour=hour,
        partition=made.partition,
        first_offset=made.first_offset,
        last_offset=made.last_offset,
    )


async def _explain(
    connection: Connection, topic: str, terms: Terms, differences: Sequence[Difference], found: Compared
) -> None:
    """A second look at the segments, for the windows that differ only: which events they are."""
    if not differences:
        return
    sealed = await sealed_months(connection)
    wanted = {one.key for one in differences[:MOST_EXPLAINED]}
    refs: dict[WindowKey, list[EventRef]] = {key: [] for key in wanted}
    async for row in store.segments_by_time(connection, topic, terms.start, terms.end + HOUR):
        records, _ = open_segment(row)
        for one in events_of(row, records or [], terms, refold.IN_WINDOWS):
            if not isinstance(one, Unreadable):
                _, record, event = one
                ref = EventRef(
                    event.key,
                    f"event {event.id} (partition {record.partition}, offset {record.offset})",
                    record.partition,
                    record.offset,
                )
                for key in fold([event]).keys() & wanted:
                    refs[key].append(ref)
    for difference in differences:
        named = windows.name_ids(difference, refs.get(difference.key, ()))
        found.findings.add(windows.finding(difference, named, sealed=is_sealed(difference.key, terms, sealed)))
        _total(found, difference.key).differing += 1
    found.differences += differences


def is_sealed(key: WindowKey, terms: Terms, sealed: set[tuple[str, Month]]) -> bool:
    """Whether the window's month is; test windows are never billed, so never sealed."""
    owner = terms.reader.metering.owners.get(key.project_id)
    return key.live and owner is not None and (key.organisation_id, Month.of(key.hour, owner.zone)) in sealed


def by_hour(differences: Sequence[Difference]) -> list[dict[str, object]]:
    """Differing windows added up by organisation, project, meter and hour, for the table."""
    rows: dict[tuple[str, str, str, str, datetime], Counter[str]] = {}
    for one in differences:
        key = one.key
        mode = "live" if key.live else "test"
        row = rows.setdefault((key.organisation_id, key.project_id, mode, key.meter_id, key.hour), Counter())
        row["windows"] += 1
        row["archive"] += one.archive.count if one.archive else 0
        row["stored"] += one.stored.count if one.stored else 0
    return [
        {
            "organisation": key[0],
            "project": key[1],
            "mode": key[2],
            "meter": key[3],
            "hour": key[4].isoformat(),
            "windows_differing": row["windows"],
            "archive_events": row["archive"],
            "window_events": row["stored"],
        }
        for key, row in sorted(rows.items())
    ]
