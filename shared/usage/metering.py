"""Read what decides how events are counted: owners of projects, their time zones, meters."""

from __future__ import annotations

from shared.domain.meter import MeterIndex
from shared.domain.period import time_zone
from shared.postgres.meters import read_meters
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
