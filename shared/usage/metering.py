"""Read what decides how events are counted: owners of projects, their time zones, meters."""

from __future__ import annotations

from shared.domain.meter import Meter, MeterIndex
from shared.domain.period import time_zone
from shared.postgres.pool import Connection
from shared.usage.event import Metering, Owner


async def read_metering(connection: Connection) -> Metering:
    """The catalogue's part in counting, as of the caller's transaction."""
    projects = await (
        await connection.execute(
            """
            SELECT project.id, organisation.id, organisation.time_zone
            FROM catalogue.project JOIN catalogue.organisation ON organisation.id = project.organisation_id
            """
        )
    ).fetchall()
    return Metering(
        owners={project: Owner(organisation, time_zone(zone)) for project, organisation, zone in projects},
        meters=MeterIndex.of(await read_meters(connection)),
    )


async def read_meters(connection: Connection) -> list[Meter]:
    """Every version of every meter."""
    rows = await (
        await connection.execute(
            "SELECT id, version, name, event_type, aggregation, value_path, unit, billable FROM catalogue.meter"
        )
    ).fetchall()
    return [Meter(*row) for row in rows]
