"""One run: which stretches to look at, the passes over them, and what is kept of it.

    1  what the witnesses say that are read first: spools, receipts; then positions and log bounds, which are later
    2  log pass, partition by partition: receipts and archive against the log     (a full run only)
    3  conservation over the offsets that arrived in the period
    4  windows of the period's hours, and of older ones that its arrivals have touched, against the archive
    5  findings, what is gone, and the run: one transaction          crash before: the next run says the same
Nothing but step 5 writes. One organisation alone is windows alone: log and archive are everybody's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from services.aggregator.reconcile import collector, log, offset_pass, receipts, spools, store
from services.aggregator.reconcile.finding import Check, FindingClass, Findings
from services.aggregator.reconcile.log_pass import Stretch, compare_partition
from services.aggregator.reconcile.offset_pass import Conserved
from services.aggregator.reconcile.progress import Progress, Stage, nobody
from services.aggregator.reconcile.receipts import Acked, Tally, Told
from services.aggregator.reconcile.record import Covered, Period, Run, record
from services.aggregator.reconcile.window_pass import Compared, compare_windows, older
from shared.contracts.messages.spool import SpoolState
from shared.contracts.topics import USAGE_EVENTS
from shared.domain.errors import Fatal, Usage
from shared.kafka import rewind
from shared.postgres.pool import Database
from shared.runtime.settings import DatabaseSettings, KafkaSettings
from shared.spool.known import known_spools
from shared.usage.segment import Disposition

OLDER_HOURS = 48  # hours before the period that its arrivals may touch: a back-fill of years is for who asks for it


class ReconcileSettings(KafkaSettings, DatabaseSettings):
    """What a run needs."""


@dataclass(frozen=True, slots=True)
class Line:
    """One check: what was compared (numbers by name), and how many findings it has."""

    check: Check
    compared: dict[str, Any]
    findings: int


@dataclass(slots=True)
class Report:
    """What a run says."""

    period: Period
    lines: list[Line] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    windows: Compared = field(default_factory=Compared)

    def add(self, check: Check, compared: dict[str, Any], *found: Findings) -> None:
        before = self.findings.of(check)
        for each in found:
            self.findings.absorb(each)
        self.lines.append(Line(check, compared, self.findings.of(check) - before))


@dataclass(slots=True)
class _Plan:
    """Step 1."""

    stretches: list[Stretch] = field(default_factory=list)
    acked: dict[int, list[Acked]] = field(default_factory=dict)
    beyond_retention: int = 0
    told: Told = field(default_factory=lambda: Told((), 0, 0, {}))
    spools: dict[str, SpoolState] = field(default_factory=dict)


async def reconcile(
    settings: ReconcileSettings,
    database: Database,
    kind: str,
    period: Period,
    *,
    full: bool = True,
    organisation: str | None = None,
    progress: Progress = nobody,
) -> Report:
    """Look at a period and keep what was found. Raises BrokerAway, DatabaseAway, Usage for an unknown organisation."""
    started = datetime.now(UTC)
    topic, group = settings.names.topic(USAGE_EVENTS), settings.names.group("aggregator")
    report = Report(period)
    organisations = None if organisation is None else [organisation]
    covered, left_out = Covered(organisations, hours=[(period.start, period.end)]), 0
    if organisation is not None:
        await _require(database, organisation)
    else:
        covered, left_out = await _everybody(settings, database, period, report, topic, group, full, progress)
    report.windows = await compare_windows(database, topic, covered.hours, organisations, _counter(progress, "windows"))
    _tell_windows(report, len(covered.hours) - 1, left_out)
    async with database.transaction() as connection:
        await record(connection, Run(kind, period, started), report.findings, covered)
    return report


async def _require(database: Database, organisation: str) -> None:
    async with database.connection() as connection:
        row = await (
            await connection.execute("SELECT 1 FROM catalogue.organisation WHERE id = %s", (organisation,))
        ).fetchone()
    if row is None:
        raise Usage(f"there is no organisation {organisation}")


async def _everybody(
    settings: ReconcileSettings,
    database: Database,
    period: Period,
    report: Report,
    topic: str,
    group: str,
    full: bool,
    progress: Progress,
) -> tuple[Covered, int]:
    """Steps 1 to 3; and how many older hours are not looked at."""
    plan = await _plan(settings, database, period, topic, group) if full else _Plan()
    if full:
        await _logs(settings, database, plan, report, group, progress)
        ranges = {each.partition.partition: (each.start, each.end) for each in plan.stretches}
    else:
        async with database.connection() as connection:
            ranges = await store.archived_between(connection, topic, period.start, period.end)
    async with database.connection() as connection:
        generations = await store.generations_since(connection, period.start)
    conserved = await offset_pass.conserve(
        database, topic, group, ranges, generations, period.start, _counter(progress, "conservation", _size(ranges))
    )
    report.add(
        Check.CONSERVATION,
        _conserved(conserved),
        conserved.findings,
        await offset_pass.whole_archive(database, topic, group),
    )
    whole = bool(plan.stretches) and all(stretch.whole_log for stretch in plan.stretches)
    spool_classes = (FindingClass.SPOOL_LOST, *((FindingClass.SPOOL_MISSING,) if whole else ()))
    hours, left_out = older(conserved.older_hours, period.start, OLDER_HOURS)
    covered = Covered(
        hours=[*hours, (period.start, period.end)],
        receipts={each.partition.partition: (each.read_from, each.read_to) for each in plan.stretches},
        archive=ranges if full else {},
        conservation=ranges if generations is not None else {},
        whole_archive=True,
        spools=spool_classes if full else (),
    )
    return covered, left_out


async def _plan(settings: ReconcileSettings, database: Database, period: Period, topic: str, group: str) -> _Plan:
    """Step 1. Raises Fatal for a receipt or a spool's word that cannot be read."""
    states = await known_spools(settings)
    try:
        told = receipts.told(await log.receipts_since(settings, period.start), topic)
    except msgspec.DecodeError as error:
        raise Fatal(f"a receipt cannot be read: {error}") from error
    async with database.connection() as connection:
        positions = await store.next_offsets(connection, group, topic)
        archived = await store.archived_between(connection, topic, period.start, period.end)
    bounds = await rewind.log_bounds(settings, [topic])
    starts = await rewind.offsets_at(settings, period.start, bounds) if bounds else {}
    ends = await rewind.offsets_at(settings, period.end, bounds) if bounds else {}
    plan = _Plan(told=told, spools=states)
    for partition, (log_start, log_end) in sorted(bounds.items()):
        number = partition.partition
        position = positions.get(number, log_start)
        first, after = archived.get(number, (starts[partition], ends[partition]))
        start = min(first, starts[partition], position)
        end = max(start, min(position, max(after, ends[partition])))
        mine = _in_question(told, plan, number, starts[partition], ends[partition], (log_start, log_end))
        plan.acked[number] = mine
        read_from = max(log_start, min([start, starts[partition], *(one.first_offset for one in mine)]))
        read_to = min(log_end, max([end, ends[partition], *(one.last_offset + 1 for one in mine)]))
        plan.stretches.append(Stretch(partition, start, end, log_start, log_end, min(read_from, read_to), read_to))
    return plan


def _in_question(
    told: Told, plan: _Plan, partition: int, start: int, end: int, log_bounds: tuple[int, int]
) -> list[Acked]:
    """Stretches of receipts that touch [start, end), or go beyond the log's end; what retention took is counted."""
    log_start, log_end = log_bounds
    found = []
    for one in told.stretches:
        touches = one.first_offset < end and one.last_offset >= start
        if one.partition != partition or not (touches or one.last_offset >= log_end):
            continue
        if one.first_offset < log_start:
            plan.beyond_retention += 1
        else:
            found.append(one)
    return found


async def _logs(
    settings: ReconcileSettings, database: Database, plan: _Plan, report: Report, group: str, progress: Progress
) -> None:
    """Step 2."""
    archive, acked, in_spools = Findings(), Findings(), dict[str, int]()
    segments = records = unreceipted = 0
    count = _counter(progress, "log", sum(each.read_to - each.read_from for each in plan.stretches))
    for stretch in plan.stretches:
        mine = plan.acked[stretch.partition.partition]
        tally = Tally(mine)
        with collector.aside():
            found, looked_at = await compare_partition(settings, database, stretch, tally, group, count)
        segments += looked_at
        records += stretch.read_to - stretch.read_from
        unreceipted += tally.unreceipted
        archive.absorb(found)
        for one in mine:
            if (finding_of_receipt := receipts.compare(one)) is not None:
                acked.add(finding_of_receipt)
        for spool, number in tally.spools.items():
            in_spools[spool] = in_spools.get(spool, 0) + number
    compared = [one for mine in plan.acked.values() for one in mine]
    more = sum(max(0, one.in_log - one.count) for one in compared)
    report.add(
        Check.RECEIPTS,
        {
            "receipts": plan.told.receipts,
            "acknowledged": sum(one.count for one in compared),
            "in_log": sum(one.in_log for one in compared),
            "unanswered": more,
            "without_receipt": unreceipted,
            "said_unanswered": plan.told.unanswered,
            "missing_receipts": {process: list(gap) for process, gap in plan.told.gaps.items()},
            "beyond_retention": plan.beyond_retention,
        },
        acked,
    )
    whole = bool(plan.stretches) and all(stretch.whole_log for stretch in plan.stretches)
    about_spools = Findings()
    for finding in spools.compare(plan.spools.values(), in_spools, whole_log=whole):
        about_spools.add(finding)
    report.add(
        Check.SPOOLS,
        {
            "spools": len(plan.spools),
            "forwarded": sum(state.forwarded_total for state in plan.spools.values()),
            "in_log": sum(in_spools.values()),
            "comparable": "yes" if whole else "no: only while the whole log is there and read (receipts tell of parts)",
        },
        about_spools,
    )
    report.add(
        Check.ARCHIVE,
        {
            "records": records,
            "segments": segments,
            "log": {str(each.partition.partition): [each.log_start, each.log_end] for each in plan.stretches},
        },
        archive,
    )


def _conserved(found: Conserved) -> dict[str, Any]:
    return {
        "records": found.records,
        **{each.name.lower(): found.dispositions[each] for each in Disposition},
        "dead_letters_kept": found.dead_letters,
        "first_sightings": sum(block.sums.events for block in found.blocks),
        "identities": "given up" if found.identities is None and found.blocks else found.identities or 0,
    }


def _tell_windows(report: Report, older_stretches: int, left_out: int) -> None:
    found = report.windows
    report.add(
        Check.WINDOWS,
        {
            "events": found.events,
            "windows": found.windows,
            "adjustments": found.adjustments,
            "differing": len(found.differences),
            "older_stretches": older_stretches,  # that events of the period were late for
            "older_hours_left_out": left_out,
        },
        found.findings,
    )


def _size(ranges: dict[int, tuple[int, int]]) -> int:
    return sum(end - start for start, end in ranges.values())


def _counter(progress: Progress, text: str, total: int = 0) -> Callable[[int], None]:
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(Stage(text, done, max(total, done)))

    return count
