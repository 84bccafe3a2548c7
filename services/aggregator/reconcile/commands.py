"""`khata usage reconcile` and `khata usage findings`: hold the witnesses against each other, see what is open."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from services.aggregator.reconcile import window_pass
from services.aggregator.reconcile.progress import Progress, Stage, nobody
from services.aggregator.reconcile.record import Period, list_findings
from services.aggregator.reconcile.repair import Repair, repair
from services.aggregator.reconcile.run import ReconcileSettings, Report, reconcile
from services.aggregator.reconcile.windows import window_text
from shared.audit.append import operator
from shared.domain.errors import Usage
from shared.domain.period import day_start, time_zone
from shared.postgres.current import current_database
from shared.postgres.pool import Database
from shared.runtime.instants import instant
from shared.runtime.output import Output, OutputOption, agreed, show, show_document, stderr, wait_for
from shared.runtime.settings import DatabaseSettings, load

app = typer.Typer(help="Usage: prove it against the log and the archive.", no_args_is_help=True)
findings_app = typer.Typer(help="What reconciliation has found.", no_args_is_help=True)
app.add_typer(findings_app, name="findings")

MOST_SHOWN = 50  # findings in the table; json has all


@app.callback()
def group() -> None:
    """Usage: prove it against the log and the archive."""


@findings_app.callback()
def findings_group() -> None:
    """What reconciliation has found."""


@app.command("reconcile")
def reconcile_command(
    since: str | None = typer.Option(None, "--from", help="2026-10-01, 2026-10-01T12:00:00+05:30, or 24h (ago)"),
    until: str | None = typer.Option(None, "--to", help="a day ends at its end; without both: the last full day"),
    organisation: str | None = typer.Option(
        None, help="windows of this one only; days are those of its time zone, otherwise of UTC"
    ),
    repair_windows: bool = typer.Option(
        False, "--repair", help="rebuild windows that differ from the archive; sealed months are left alone"
    ),
    yes: bool = typer.Option(False, "--yes", help="with --repair: do it, do not ask"),
    output: Output = OutputOption,
) -> None:
    """Compare receipts, spools, log, archive, identities and windows. Exit code 1 when something differs."""
    settings = load(ReconcileSettings)
    with _bar() as progress:
        report, repairs = wait_for(_reconcile(settings, since, until, organisation, repair_windows, yes, progress))
    if output is Output.JSON:
        show_document(_document(report, repairs))
    else:
        _tables(report, repairs)
    if report.findings.total:
        raise typer.Exit(1)


@findings_app.command("list")
def list_command(
    all_of_them: bool = typer.Option(False, "--all", help="those that are gone, too"),
    organisation: str | None = typer.Option(None, help="of this organisation only"),
    limit: int = typer.Option(100, min=1, max=10_000, help="at most so many, the newest"),
    output: Output = OutputOption,
) -> None:
    """Findings that are open: each difference once, with when it was first and last seen."""
    show(wait_for(_list(load(DatabaseSettings), all_of_them, organisation, limit)), output)


async def _list(settings: DatabaseSettings, gone: bool, organisation: str | None, limit: int) -> list[dict[str, Any]]:
    async with current_database(settings, "khata_reader", "reconcile") as database, database.connection() as connection:
        return await list_findings(connection, gone=gone, organisation=organisation, limit=limit)


async def _reconcile(
    settings: ReconcileSettings,
    since: str | None,
    until: str | None,
    organisation: str | None,
    repair_windows: bool,
    yes: bool,
    progress: Progress,
) -> tuple[Report, list[Repair]]:
    async with current_database(settings, "khata_aggregator", "reconcile") as database:
        period = period_of(since, until, datetime.now(UTC), await _zone(database, organisation))
        report = await reconcile(settings, database, "manual", period, organisation=organisation, progress=progress)
        differing = [one.key for one in report.windows.differences]
        if not repair_windows or not differing:
            return report, []
        repairs = await repair(settings, database, differing, operator(), dry_run=True)
        wanted = sum(one.outcome == "would be repaired" for one in repairs)
        if not wanted or not agreed(f"Rebuild {wanted} window(s) from the archive?", yes=yes, dry_run=False):
            return report, repairs
        repairs = await repair(settings, database, differing, operator(), dry_run=False)
        return (
            await reconcile(settings, database, "manual", period, organisation=organisation, progress=progress),
            repairs,
        )


async def _zone(database: Database, organisation: str | None) -> str:
    if organisation is None:
        return "UTC"
    async with database.connection() as connection:
        row = await (
            await connection.execute("SELECT time_zone FROM catalogue.organisation WHERE id = %s", (organisation,))
        ).fetchone()
    if row is None:
        raise Usage(f"there is no organisation {organisation}")
    return str(row[0])


def period_of(since: str | None, until: str | None, now: datetime, zone_name: str) -> Period:
    """What is meant by --from and --to. Days are those of the zone; one that ends a period is in it. Raises Usage.

    Without both: the last full day. With one: from there until now, or the day that ends there.
    """
    zone = time_zone(zone_name)
    today = now.astimezone(zone).date()

    def start_of(day: date) -> datetime:
        return day_start(day, zone)

    end = _instant(until, now, lambda day: start_of(day + timedelta(days=1)))
    if end is None:
        end = now if since is not None else start_of(today)
    start = _instant(since, now, start_of)
    if start is None:
        start = start_of((end - timedelta(microseconds=1)).astimezone(zone).date())
        if until is None:
            start = start_of(today - timedelta(days=1))
    if start >= end:
        raise Usage(f"--from {start.isoformat()} is not before --to {end.isoformat()}")
    return Period(start, end)


def _instant(text: str | None, now: datetime, of_day: Any) -> datetime | None:
    if text is None:
        return None
    try:
        day = date.fromisoformat(text.strip())
    except ValueError:
        return instant(text, now)
    found: datetime = of_day(day)
    return found


def _document(report: Report, repairs: list[Repair]) -> dict[str, Any]:
    return {
        "from": report.period.start.isoformat(),
        "to": report.period.end.isoformat(),
        "checks": [{"check": line.check.value, "findings": line.findings, **line.compared} for line in report.lines],
        "totals": [
            {
                **dict(zip(("organisation", "project", "live", "meter"), key, strict=True)),
                "archive_events": total.archive_events,
                "window_events": total.window_events,
                "windows": total.windows,
                "differing": total.differing,
            }
            for key, total in sorted(report.windows.totals.items())
        ],
        "differences": window_pass.by_hour(report.windows.differences),
        "findings": [
            {
                "class": finding.found.value,
                "text": finding.text,
                "organisation": finding.organisation_id,
                "project": finding.project_id,
                "meter": finding.meter_id,
                "hour": finding.hour.isoformat() if finding.hour else None,
                "partition": finding.partition,
                "first_offset": finding.first_offset,
                "last_offset": finding.last_offset,
                "details": dict(finding.details),
                "key": finding.key,
            }
            for finding in report.findings.kept.values()
        ],
        "findings_total": report.findings.total,
        "repairs": [_repaired(one) for one in repairs],
    }


def _repaired(one: Repair) -> dict[str, Any]:
    return {
        "organisation": one.key.organisation_id,
        "window": window_text(one.key),
        "outcome": one.outcome,
        "why": one.why,
    }


def _tables(report: Report, repairs: list[Repair]) -> None:
    period = f"{report.period.start.isoformat()} to {report.period.end.isoformat()}"
    show(
        [
            {"check": line.check.value, "compared": _sentence(line.compared), "findings": line.findings}
            for line in report.lines
        ],
        Output.TABLE,
        title=f"Reconciliation of {period}",
    )
    totals = [
        {
            "organisation": organisation,
            "project": project,
            "mode": "live" if live else "test",
            "meter": meter,
            "archive_events": total.archive_events,
            "window_events": total.window_events,
            "windows": total.windows,
            "differing": total.differing,
        }
        for (organisation, project, live, meter), total in sorted(report.windows.totals.items())
    ]
    if totals:
        show(totals, Output.TABLE, title="Archive and windows")
    if differences := window_pass.by_hour(report.windows.differences):
        show(differences[:MOST_SHOWN], Output.TABLE, title="Hours that differ")
    if report.findings.total:
        kept = list(report.findings.kept.values())[:MOST_SHOWN]
        show([{"class": one.found.value, "finding": one.text} for one in kept], Output.TABLE, title="Findings")
        if report.findings.total > len(kept):
            print(f"... and {report.findings.total - len(kept)} more: --output json has them")
    if repairs:
        show([_repaired(one) for one in repairs], Output.TABLE, title="Repair")


def _sentence(compared: dict[str, Any]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {json.dumps(value) if isinstance(value, dict) else value}"
        for name, value in compared.items()
        if value not in ({}, None)
    )


@contextmanager
def _bar() -> Iterator[Progress]:
    """Progress on stderr, one row per stage, where somebody watches."""
    if not sys.stderr.isatty():
        yield nobody
        return
    columns = (
        *(SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn()),
        *(MofNCompleteColumn(), TimeElapsedColumn()),
    )
    with Bar(*columns, console=stderr, transient=True) as bar:
        rows: dict[str, Any] = {}

        def tell(stage: Stage) -> None:
            if stage.text not in rows:
                rows[stage.text] = bar.add_task(stage.text, total=stage.total)
            bar.update(rows[stage.text], completed=stage.done, total=stage.total)

        yield tell
