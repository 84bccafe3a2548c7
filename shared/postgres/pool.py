"""Connections that act as one application role, with limits so that a sick database never piles up waiters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Literal

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from shared.domain.errors import DatabaseAway
from shared.runtime.settings import DatabaseSettings

Role = Literal["khata_aggregator", "khata_invoicer", "khata_payments", "khata_catalogue", "khata_reader"]
Connection = AsyncConnection[TupleRow]

# A process frozen in a transaction must not hold row locks for ever: Postgres ends an idle one.
IDLE_IN_TRANSACTION_MS = 8_000
# A batch that waits longer than this for a lock rolls back and tries again.
LOCK_TIMEOUT_MS = 4_000
OPEN_S = 5.0
# A half-open connection ends in about 15 s instead of two hours; tcp_user_timeout is for data in flight, which
# keepalives do not cover (Linux).
KEEPALIVE = {"keepalives_idle": 5, "keepalives_interval": 3, "keepalives_count": 3, "tcp_user_timeout": 15_000}

# What "the database is away" looks like: the server went, refused, timed out, or ended our transaction
# for reasons of its own. 40 = rollback (deadlock, serialization), 53 = out of resources, 55P03 = lock
# timeout, 57 = operator intervention, 25P03 = idle in transaction.
_AWAY_CLASSES = ("08", "40", "53", "57")
_AWAY_STATES = ("55P03", "25P03")


def connection_string(settings: DatabaseSettings, role: Role, application: str) -> str:
    options = (
        f"-c role={role} -c timezone=UTC -c lock_timeout={LOCK_TIMEOUT_MS} "
        f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_MS}"
    )
    return make_conninfo(
        settings.database_url.get_secret_value(),
        options=options,
        application_name=f"khata-{application}",
        connect_timeout=5,
        **KEEPALIVE,
    )


def is_away(error: psycopg.Error | PoolTimeout | TooManyRequests) -> bool:
    """Whether the same transaction may well succeed when it is tried again."""
    if isinstance(error, PoolTimeout | TooManyRequests):
        return True
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate.startswith(_AWAY_CLASSES) or error.sqlstate in _AWAY_STATES


def is_lock_timeout(away: DatabaseAway) -> bool:
    """Whether it was another's lock that did not come free in time."""
    return isinstance(away.__cause__, psycopg.errors.LockNotAvailable)


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn errors that time heals into DatabaseAway; every other error is a bug and passes."""
    try:
        yield
    except (psycopg.Error, PoolTimeout, TooManyRequests) as error:
        if is_away(error):
            raise DatabaseAway(f"Postgres: {error}".strip().splitlines()[0]) from error
        raise


class Database:
    """The pool of one service. `transaction()` is the only way to write."""

    def __init__(self, settings: DatabaseSettings, role: Role, application: str) -> None:
        self._conninfo = connection_string(settings, role, application)
        self._pool = AsyncConnectionPool(
            self._conninfo,
            min_size=1,
            max_size=settings.database_pool_size,
            max_waiting=settings.database_pool_max_waiting,
            timeout=settings.database_pool_timeout_s,
            max_lifetime=1800,
            open=False,
            kwargs={"autocommit": True},
            check=AsyncConnectionPool.check_connection,
            name=application,
        )

    async def open(self) -> None:
        """Raises DatabaseAway, naming the server, when no connection can be made within 5 s."""
        try:
            await self._pool.open(wait=True, timeout=OPEN_S)
        except PoolTimeout:
            where = conninfo_to_dict(self._conninfo)
            raise DatabaseAway(
                f"Postgres at {where.get('host')}:{where.get('port', 5432)} (database {where.get('dbname')}) does not "
                f"answer within {OPEN_S:g} s: check DATABASE_URL, or run `khata dev`"
            ) from None

    async def close(self) -> None:
        await self._pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection in autocommit mode, for reads."""
        with database_errors():
            async with self._pool.connection() as connection:
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One transaction: committed at the end of the block, rolled back by any exception."""
        with database_errors():
            async with self._pool.connection() as connection, connection.transaction():
                yield connection

    async def check(self) -> str | None:
        """Readiness: None when a query comes back."""
        try:
            async with self.connection() as connection:
                await connection.execute("SELECT 1")
        except DatabaseAway as away:
            return str(away)
        return None


async def direct_connection(settings: DatabaseSettings, role: Role, application: str) -> Connection:
    """A connection outside the pool, for session locks (leadership) that must live as long as the holder."""
    with database_errors():
        return await AsyncConnection.connect(connection_string(settings, role, application), autocommit=True)
