"""Definitions of meters as they are stored: read by whoever counts and by whoever changes them."""

from __future__ import annotations

from psycopg.rows import dict_row

from shared.domain.definition import filters_of, group_by_of
from shared.domain.meter import Meter
from shared.postgres.pool import Connection


async def read_meters(connection: Connection) -> list[Meter]:
    """Every version of every meter."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            SELECT id, version, name, event_type, aggregation, value_path, unit, billable, clamp_min, clamp_max,
                   filters::text, group_by::text, late, nullif(effective_from, '-infinity') AS effective_from
            FROM catalogue.meter
            """
        )
        return [
            Meter(**row | {"filters": filters_of(row["filters"]), "group_by": group_by_of(row["group_by"])})
            async for row in cursor
        ]
