"""Corrections as people and programs look at them. SQL only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row

from shared.postgres.pool import Connection


@dataclass(frozen=True, slots=True)
class Selection:
    """Which corrections; None does not narrow it."""

    state: str | None = None
    project: str | None = None
    code: str | None = None
    since: datetime | None = None
    limit: int = 100


async def corrections(connection: Connection, wanted: Selection) -> list[dict[str, Any]]:
    """The newest first."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            SELECT arrived_at, kind, state, coalesce(code, applied_as) AS as_or_why, project_id AS project,
                   CASE WHEN live THEN 'live' ELSE 'test' END AS mode, subject, source, event_id AS id,
                   target_source, target_id, reason
            FROM usage.correction
            WHERE (%(state)s::text IS NULL OR state = %(state)s) AND (%(code)s::text IS NULL OR code = %(code)s)
              AND (%(project)s::text IS NULL OR project_id = %(project)s)
              AND (%(since)s::timestamptz IS NULL OR arrived_at >= %(since)s)
            ORDER BY arrived_at DESC, partition, log_offset DESC LIMIT %(limit)s
            """,
            {
                "state": wanted.state,
                "project": wanted.project,
                "code": wanted.code,
                "since": wanted.since,
                "limit": wanted.limit,
            },
        )
        return await cursor.fetchall()


async def one(connection: Connection, key: bytes) -> dict[str, Any] | None:
    """Everything about one correction, with the adjustments it made and took back; None without such a one."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            SELECT source, event_id AS id, kind, project_id AS project, organisation_id AS organisation,
                   CASE WHEN live THEN 'live' ELSE 'test' END AS mode, subject, key_id AS api_key, reason,
                   target_source, target_id, convert_from(data, 'UTF8') AS data,
                   state, applied_as, code, explanation, arrived_at, decided_at, sequence,
                   partition, log_offset AS offset, target_partition, target_offset, target_hour
            FROM usage.correction WHERE key = %s
            """,
            (UUID(bytes=key),),
        )
        found = await cursor.fetchone()
        if found is None:
            return None
        await cursor.execute(
            """
            SELECT CASE WHEN taken_back_by = %(key)s THEN 'taken back' ELSE 'made' END AS what, kind,
                   meter_id AS meter, meter_version AS version, dimensions, sign, value::text, billed_by
            FROM usage.adjustment WHERE %(key)s IN (correction_key, taken_back_by) ORDER BY id
            """,
            {"key": UUID(bytes=key)},
        )
        return found | {"adjustments": await cursor.fetchall()}


async def dirty(connection: Connection, limit: int) -> list[dict[str, Any]]:
    """Windows to be looked at again, the one that waits longest first."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            SELECT since, organisation_id AS organisation, project_id AS project,
                   CASE WHEN live THEN 'live' ELSE 'test' END AS mode, subject, meter_id AS meter,
                   meter_version AS version, dimensions, hour, marks - cleaned AS corrections
            FROM usage.dirty_window WHERE cleaned < marks ORDER BY since, hour LIMIT %s
            """,
            (limit,),
        )
        return await cursor.fetchall()
