"""Keep what a run has found: the same difference is one row, and one that was looked for and is not there is gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from services.aggregator.reconcile.finding import CHECK_OF, Check, FindingClass, Findings
from shared.postgres.pool import Connection

Ranges = Mapping[int, tuple[int, int]]
"""[start, end) by partition."""


@dataclass(frozen=True, slots=True)
class Period:
    """[start, end): of the hours of windows, and of the arrival of records."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Covered:
    """Where a run has looked, so that what it has not found there is gone. Nothing else is."""

    organisations: Sequence[str] | None = None  # None: all
    hours: Sequence[tuple[datetime, datetime]] = ()  # of windows
    receipts: Ranges = field(default_factory=dict)
    archive: Ranges = field(default_factory=dict)
    conservation: Ranges = field(default_factory=dict)
    whole_archive: bool = False
    spools: Sequence[FindingClass] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """A run that came to its end; `kind` is hourly, daily or manual."""

    kind: str
    period: Period
    started_at: datetime


async def record(connection: Connection, run: Run, findings: Findings, covered: Covered) -> None:
    """Findings, what is gone, and the run itself, in the caller's transaction."""
    rows = sorted(findings.kept.values(), key=lambda one: one.key)
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            INSERT INTO usage.finding AS stored
                (key, class, organisation_id, project_id, meter_id, hour, partition, first_offset, last_offset, text,
                 details)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (key) DO UPDATE SET
                class = excluded.class, text = excluded.text, details = excluded.details, last_seen = now(),
                gone_at = NULL
            """,
            [
                (
                    *(one.key, one.found.value, one.organisation_id, one.project_id, one.meter_id, one.hour),
                    *(one.partition, one.first_offset, one.last_offset, one.text, Jsonb(dict(one.details))),
                )
                for one in rows
            ],
        )
    if findings.all_kept:
        await _mark_gone(connection, [one.key for one in rows], covered)
    await connection.execute(
        """
        INSERT INTO usage.reconcile_run (kind, period_start, period_end, started_at, findings)
        VALUES (%s, %s, %s, %s, %s)
        """,
        (run.kind, run.period.start, run.period.end, run.started_at, findings.total),
    )


async def _mark_gone(connection: Connection, found: Sequence[str], covered: Covered) -> None:
    for start, end in covered.hours:
        await connection.execute(
            """
            UPDATE usage.finding SET gone_at = now()
            WHERE gone_at IS NULL AND class = ANY(%s) AND key <> ALL(%s) AND hour >= %s AND hour < %s
              AND (%s::text[] IS NULL OR organisation_id = ANY(%s::text[]))
            """,
            (
                _classes(Check.WINDOWS),
                list(found),
                start,
                end,
                *[None if covered.organisations is None else list(covered.organisations)] * 2,
            ),
        )
    for check, ranges in (
        (Check.RECEIPTS, covered.receipts),
        (Check.ARCHIVE, covered.archive),
        (Check.CONSERVATION, covered.conservation),
    ):
        await connection.execute(
            """
            UPDATE usage.finding SET gone_at = now()
            FROM unnest(%s::integer[], %s::bigint[], %s::bigint[]) AS looked (number, first, after)
            WHERE gone_at IS NULL AND class = ANY(%s) AND key <> ALL(%s)
              AND partition = looked.number AND first_offset >= looked.first AND last_offset < looked.after
            """,
            (
                list(ranges),
                [start for start, _ in ranges.values()],
                [end for _, end in ranges.values()],
                _classes(check),
                list(found),
            ),
        )
    others = [*covered.spools, *((FindingClass.CONSERVATION,) if covered.whole_archive else ())]
    await connection.execute(
        """
        UPDATE usage.finding SET gone_at = now()
        WHERE gone_at IS NULL AND class = ANY(%s) AND key <> ALL(%s) AND first_offset IS NULL
        """,
        ([each.value for each in others], list(found)),
    )


def _classes(check: Check) -> list[str]:
    return [found.value for found, its in CHECK_OF.items() if its is check]


async def open_counts(connection: Connection) -> dict[str, int]:
    """Open findings by class; every class has its number."""
    rows = await (
        await connection.execute("SELECT class, count(*) FROM usage.finding WHERE gone_at IS NULL GROUP BY class")
    ).fetchall()
    return {each.value: 0 for each in FindingClass} | dict(rows)


async def last_runs(connection: Connection) -> dict[str, tuple[datetime, datetime]]:
    """(end of the period, when it was finished) of the last run of each kind."""
    rows = await (
        await connection.execute(
            "SELECT kind, max(period_end), max(finished_at) FROM usage.reconcile_run GROUP BY kind"
        )
    ).fetchall()
    return {kind: (end, finished) for kind, end, finished in rows}


async def list_findings(
    connection: Connection, *, gone: bool, organisation: str | None, limit: int
) -> list[dict[str, Any]]:
    """Findings, the newest first; only open ones unless `gone`."""
    rows = await (
        await connection.execute(
            """
            SELECT class, first_seen, last_seen, gone_at, organisation_id, project_id, meter_id, hour, text, key
            FROM usage.finding
            WHERE (%(gone)s OR gone_at IS NULL)
              AND (%(organisation)s::text IS NULL OR organisation_id = %(organisation)s)
            ORDER BY first_seen DESC, key LIMIT %(limit)s
            """,
            {"gone": gone, "organisation": organisation, "limit": limit},
        )
    ).fetchall()
    names = (
        *("class", "first_seen", "last_seen", "gone_at", "organisation", "project", "meter", "hour", "text", "key"),
    )
    return [
        dict(zip(names, (each.isoformat() if isinstance(each, datetime) else each for each in row), strict=True))
        for row in rows
    ]
