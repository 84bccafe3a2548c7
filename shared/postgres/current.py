"""Open a database whose schema is the code's: what every command starts with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.postgres.migrate import require_current
from shared.postgres.pool import Database, Role
from shared.runtime.settings import DatabaseSettings


@asynccontextmanager
async def current_database(settings: DatabaseSettings, role: Role, application: str) -> AsyncIterator[Database]:
    """Raises DatabaseAway, and Misconfigured when the schema is older or newer than the code."""
    database = Database(settings, role, application)
    await database.open()
    try:
        async with database.connection() as connection:
            await require_current(connection)
        yield database
    finally:
        await database.close()
