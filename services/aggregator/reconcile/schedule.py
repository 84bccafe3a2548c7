"""Reconcile on a schedule: every hour the last closed hours, every day the last days in full.

The aggregator starts a process of its own for each run, at low priority: folding is work for a whole core, and counting
must not wait for it. Of several aggregators one process at a time does it (leadership, taken by the child itself), and
what is due is told by the table of runs, so nobody does it twice. Every aggregator exports what the table says.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from services.aggregator.reconcile.progress import Progress, Stage
from services.aggregator.reconcile.record import Period, last_runs, open_counts
from services.aggregator.reconcile.run import ReconcileSettings, Report, reconcile
from shared.domain.errors import BrokerAway, DatabaseAway, Fatal
from shared.observability import logging
from shared.observability import names as metrics
from shared.postgres.leadership import candidate
from shared.postgres.pool import Database, Role
from shared.runtime.pause import pause

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LEADERSHIP = "usage.reconcile"
ROLE: Role = "khata_aggregator"
LOOK_EVERY_S = 60.0
AGAIN_S = 600.0  # after a run that failed
SETTLED = timedelta(minutes=10)  # after an hour's end most of its events are there; what comes later is looked at again
HOURS_BACK = 3  # an hour is looked at in so many runs
MOST_HOURS = 48  # after a long stop; the daily run has the rest
DAYS_BACK = 2
DAILY_AFTER = timedelta(hours=2)  # the end of the day in UTC
PURGE_MOST = 1_000
STOP_S = 10.0

log = logging.get(__name__)


class Due(NamedTuple):
    kind: str
    period: Period


def due(now: datetime, done_until: Mapping[str, datetime]) -> Due | None:
    """What is to be done next, the hourly one first. `done_until`: end of the last period of each kind. Pure."""
    hour = (now - SETTLED).replace(minute=0, second=0, microsecond=0)
    done = done_until.get("hourly")
    if done is None or done < hour:
        since = hour - HOURS_BACK * HOUR if done is None else min(done, hour - HOUR) - (HOURS_BACK - 1) * HOUR
        return Due("hourly", Period(max(since, hour - MOST_HOURS * HOUR), hour))
    day = (now - DAILY_AFTER).replace(hour=0, minute=0, second=0, microsecond=0)
    done = done_until.get("daily")
    if done is None or done < day:
        return Due("daily", Period(day - DAYS_BACK * DAY, day))
    return None


async def run_due(settings: ReconcileSettings, now: datetime) -> list[Due]:
    """Do all that is due, unless another process is at it; what was done. Raises BrokerAway, DatabaseAway, Fatal."""
    finished: list[Due] = []
    database = Database(settings, ROLE, "reconcile")
    await database.open()
    try:
        async with candidate(settings, ROLE, "reconcile") as leader:
            while await leader.leads(LEADERSHIP) and (next_one := await _next(database, now)) is not None:
                report = await reconcile(
                    settings,
                    database,
                    next_one.kind,
                    next_one.period,
                    full=next_one.kind == "daily",
                    progress=_with_parent(os.getppid()),
                )
                await leader.still()
                _tell(next_one, report)
                finished.append(next_one)
            if finished:
                async with database.transaction() as connection:
                    await connection.execute("SELECT usage.purge_reconcile(%s)", (PURGE_MOST,))
    finally:
        await database.close()
    return finished


async def _next(database: Database, now: datetime) -> Due | None:
    async with database.connection() as connection:
        return due(now, {kind: end for kind, (end, _) in (await last_runs(connection)).items()})


def _tell(done: Due, report: Report) -> None:
    told = log.error if report.findings.total else log.info
    told(
        "reconcile.done",
        kind=done.kind,
        start=done.period.start.isoformat(),
        end=done.period.end.isoformat(),
        findings={found.value: count for found, count in sorted(report.findings.counts.items())},
        checks={line.check.value: line.compared for line in report.lines},
    )


class Orphaned(Fatal):
    """The process that started this one is gone: the next one starts another."""


def _with_parent(parent: int) -> Progress:
    """Ends a run whose aggregator is gone: raises Orphaned."""

    def look(stage: Stage) -> None:
        if os.getppid() != parent:
            raise Orphaned("the aggregator that started this run is gone")

    return look


async def keep(database: Database, stop: asyncio.Event, *, look_every_s: float = LOOK_EVERY_S) -> None:
    """Until `stop`: export what was found, and start a run when one is due."""
    not_before = datetime.min.replace(tzinfo=UTC)
    while not await pause(stop, look_every_s):
        try:
            now = datetime.now(UTC)
            await export(database)
            if now < not_before or await _next(database, now) is None:
                continue
            if await _child(stop) != 0 and not stop.is_set():
                metrics.RECONCILE_FAILURES.inc()
                not_before = now + timedelta(seconds=AGAIN_S)
            await export(database)
        except (DatabaseAway, OSError) as error:  # OSError: no process can be started
            log.warning("reconcile.waits", error=str(error))


async def export(database: Database) -> None:
    """Numbers of the tables as metrics. Raises DatabaseAway."""
    async with database.connection() as connection:
        counts, runs = await open_counts(connection), await last_runs(connection)
    for found, count in counts.items():
        metrics.RECONCILE_FINDINGS.labels(found).set(count)
    for kind, (_, finished) in runs.items():
        metrics.RECONCILE_SUCCESS_AT.labels(kind).set(finished.timestamp())


async def _child(stop: asyncio.Event) -> int:
    """One run in a process of its own; its exit code. It is ended when `stop` is set."""
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.aggregator.reconcile")
    running, stopping = asyncio.ensure_future(child.wait()), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            child.terminate()  # safe: what it has found is one transaction at its end
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(running), STOP_S)
        if not running.done():
            child.kill()
        return await running
    finally:
        stopping.cancel()


async def main(settings: ReconcileSettings) -> int:
    """The child. 0: done, or another process is at it."""
    try:
        await run_due(settings, datetime.now(UTC))
    except (BrokerAway, DatabaseAway, Fatal) as error:
        log.error("reconcile.failed", error=str(error), kind=type(error).__name__)
        return 1
    return 0
