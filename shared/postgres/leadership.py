"""Leadership: one process at a time does a thing; the others stand by and take over when its session ends.

A session advisory lock on a connection outside the pool. A leader looks at that connection before each piece of
work (`still`): with the connection the leadership is gone, and another process may have it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.postgres.pool import Connection, Role, database_errors, direct_connection
from shared.runtime.settings import DatabaseSettings

_SEED = 7


class Candidate:
    """Leaderships tried for on one connection; `held` are those it got."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.held: list[str] = []

    async def leads(self, name: str) -> bool:
        """Whether it has the leadership called `name`, tried for now if need be. Raises DatabaseAway."""
        if name in self.held:
            return True
        with database_errors():
            got = await try_lead(self._connection, name)
        if got:
            self.held.append(name)
        return got

    async def still(self) -> None:
        """Raises DatabaseAway when the connection, and with it every leadership, is gone."""
        with database_errors():
            await self._connection.execute("SELECT 1")


@asynccontextmanager
async def candidate(settings: DatabaseSettings, role: Role, application: str) -> AsyncIterator[Candidate]:
    """A connection to lead on; at the end of the block every leadership is given up. Raises DatabaseAway."""
    connection = await direct_connection(settings, role, application)
    try:
        yield Candidate(connection)
    finally:
        await connection.close()


async def try_lead(connection: Connection, name: str) -> bool:
    """Try for the leadership called `name`; held as long as this session lives."""
    row = await (
        await connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, %s))", (name, _SEED))
    ).fetchone()
    return bool(row and row[0])
