"""The epoch lock: what may not change while a batch is applied.

A batch enters shared for its transaction; sealing a month, rolling a generation, changing a meter or a
time zone enter exclusively, for milliseconds, and raise the version so that every batch reloads what it
cached. It is an advisory lock because Postgres queues those fairly; row locks starve the exclusive side.
"""

from __future__ import annotations

from shared.observability import logging
from shared.postgres.pool import Connection

_LOCK = 0x6B65706F6368  # "kepoch"

# Shorter than a batch's own lock_timeout: whoever wants the exclusive side gives up first and tries again,
# so that waiting for it never makes a batch fail.
EXCLUSIVE_LOCK_TIMEOUT_MS = 2_000
# Longer than any healthy batch, and as long as Postgres itself leaves an idle transaction.
STALE_HOLDER_S = 8.0

log = logging.get(__name__)


async def enter_shared(connection: Connection) -> int:
    """Take the lock shared until the end of the transaction; returns the epoch's version."""
    await connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", (_LOCK,))
    return await version(connection)


async def enter_exclusive(connection: Connection) -> int:
    """Take the lock exclusively until the end of the transaction and raise the version; returns the new one.

    Raises DatabaseAway (through the pool) when the lock is not free within 2 s: try the transaction again.
    """
    await connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{EXCLUSIVE_LOCK_TIMEOUT_MS}ms",))
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
    row = await (await connection.execute("UPDATE usage.epoch SET version = version + 1 RETURNING version")).fetchone()
    assert row is not None
    return int(row[0])


async def version(connection: Connection) -> int:
    row = await (await connection.execute("SELECT version FROM usage.epoch")).fetchone()
    assert row is not None
    return int(row[0])


async def end_stale_holders(connection: Connection) -> int:
    """End the sessions that hold the lock in a transaction older than STALE_HOLDER_S; returns how many.

    For whoever has waited for it twice. A process frozen inside a COPY or a pipeline is not idle for Postgres, so
    no time-out of its session ends it, and it would stop everyone. One that itself waits for a lock is left alone.
    """
    row = await (await connection.execute("SELECT usage.end_stale_holders(%s, %s)", (_LOCK, STALE_HOLDER_S))).fetchone()
    assert row is not None
    ended = int(row[0])
    if ended:
        log.warning("epoch.ended_stale_holders", sessions=ended)
    return ended
