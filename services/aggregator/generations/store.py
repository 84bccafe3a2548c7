"""Generations in Postgres. Each step is one function of the owner (0015_generations.sql) and can be done twice.

open -> closed (roll) -> counted (its keys are told: from then on a filter can be checked) -> detached -> dropped
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np

from services.aggregator.generations.bloom import Words
from shared.domain.identity import Fingerprint
from shared.postgres import epoch
from shared.postgres.pool import Connection, Database

# One reading of a table: 27,000 keys, a few milliseconds of the event loop.
CHUNK_PAGES = 256
# Somebody reads all identities when a generation is to be detached: try again when he has done.
TABLE_LOCK_TIMEOUT_MS = 250


class Generation(NamedTuple):
    """One that batches read. `keys` and `fingerprint` are exact, and None until it is closed and counted."""

    id: int
    closed: bool
    keys: int | None = None
    fingerprint: Fingerprint | None = None


class Listed(NamedTuple):
    """A row of `khata identities list`, detached ones included."""

    generation: Generation
    opened_at: datetime
    closed_at: datetime | None
    detached_at: datetime | None
    dropped_at: datetime | None
    size: int | None  # keys at most, by the size of its table
    bytes: int | None  # of table and index


async def generations(connection: Connection) -> tuple[Generation, ...]:
    """Every generation that may hold a key; constant within an epoch. The last one is open."""
    rows = await (
        await connection.execute(
            """
            SELECT id, closed_at IS NOT NULL, identity_count, fingerprint_high, fingerprint_low
            FROM usage.generation WHERE detached_at IS NULL ORDER BY id
            """
        )
    ).fetchall()
    found = tuple(_generation(*row) for row in rows)
    assert found and [one.closed for one in found] == [True] * (len(found) - 1) + [False], "one is open, the last"
    return found


def _generation(id: int, closed: bool, keys: int | None, high: int | None, low: int | None) -> Generation:
    return Generation(id, closed, keys, None if high is None or low is None else Fingerprint(high, low))


async def listed(connection: Connection) -> list[Listed]:
    """All there ever were, in order."""
    rows = await (
        await connection.execute(
            """
            SELECT id, closed_at IS NOT NULL, identity_count, fingerprint_high, fingerprint_low,
                   opened_at, closed_at, detached_at, dropped_at, usage.generation_size(id),
                   pg_total_relation_size(to_regclass('usage.identity_' || id))
            FROM usage.generation ORDER BY id
            """
        )
    ).fetchall()
    return [Listed(_generation(*row[:5]), *row[5:]) for row in rows]


async def due(connection: Connection, most_keys: int, most_age: timedelta) -> int | None:
    """The open generation's id when it has reached its size or age."""
    row = await (
        await connection.execute(
            """
            SELECT id FROM usage.generation
            WHERE closed_at IS NULL AND usage.generation_size(id) > 0
              AND (usage.generation_size(id) >= %s OR opened_at <= clock_timestamp() - %s::interval)
            """,
            (most_keys, most_age),
        )
    ).fetchone()
    return None if row is None else int(row[0])


async def roll(connection: Connection, expected: int) -> int | None:
    """Close `expected` and open the next one, in the caller's transaction; None when there is nothing to close.

    No batch is in flight under the exclusive lock, so whoever claims afterwards sees every key that was claimed
    before. Raises DatabaseAway (through the pool) when the lock is not free: try the transaction again.
    """
    await _enter_exclusive(connection)
    return _id(await (await connection.execute("SELECT usage.roll_generation(%s)", (expected,))).fetchone())


async def uncounted(connection: Connection) -> int | None:
    """The oldest closed generation whose keys are not told yet."""
    return _id(
        await (
            await connection.execute(
                """
                SELECT min(id) FROM usage.generation
                WHERE closed_at IS NOT NULL AND identity_count IS NULL AND detached_at IS NULL
                """
            )
        ).fetchone()
    )


async def freeze(connection: Connection, generation: int) -> None:
    """From here on nothing changes a closed generation, whoever tries."""
    await connection.execute("SELECT usage.freeze_generation(%s)", (generation,))


async def store_count(connection: Connection, generation: int, keys: int, fingerprint: Fingerprint) -> None:
    """Tell what a frozen generation holds. A new epoch, for batches read it with the generations."""
    await epoch.enter_exclusive(connection)
    await connection.execute("SELECT usage.count_generation(%s, %s, %s, %s)", (generation, keys, *fingerprint))


async def detach(connection: Connection, keep: timedelta) -> int | None:
    """Take the oldest generation that was closed longer ago than `keep` away from the batches."""
    await _enter_exclusive(connection)
    return _id(await (await connection.execute("SELECT usage.detach_generation(%s)", (keep,))).fetchone())


async def old(connection: Connection, keep: timedelta) -> bool:
    """Whether there is one to detach: so that nobody takes the lock for nothing."""
    row = await (
        await connection.execute(
            """
            SELECT EXISTS (
                SELECT FROM usage.generation
                WHERE detached_at IS NULL AND closed_at < clock_timestamp() - %s::interval
            )
            """,
            (keep,),
        )
    ).fetchone()
    return bool(row and row[0])


async def drop(connection: Connection) -> int | None:
    """Drop the table of the oldest detached generation."""
    return _id(await (await connection.execute("SELECT usage.drop_generation()")).fetchone())


async def keys_of(database: Database, generation: int) -> AsyncIterator[Words]:
    """All keys of a frozen generation, chunk by chunk in the order of its table. Raises DatabaseAway.

    Each chunk is a statement of its own: what never changes needs no snapshot, and a long one would hold up vacuum.
    """
    async with database.connection() as connection:
        row = await (
            await connection.execute(
                """
                SELECT coalesce(pg_relation_size(to_regclass('usage.identity_' || %s::integer)), 0)
                       / current_setting('block_size')::bigint
                """,
                (generation,),
            )
        ).fetchone()
    assert row is not None
    for page in range(0, int(row[0]), CHUNK_PAGES):
        async with database.connection() as connection:
            found = await (
                await connection.execute(
                    """
                    SELECT string_agg(uuid_send(key), ''::bytea) FROM usage.identity
                    WHERE generation = %b AND ctid >= %b::text::tid AND ctid < %b::text::tid
                    """,
                    (generation, f"({page},0)", f"({page + CHUNK_PAGES},0)"),
                    binary=True,
                )
            ).fetchone()
        if found is not None and found[0] is not None:
            yield np.frombuffer(found[0], "<u8").reshape(-1, 2)


def fingerprint_of(keys: Words) -> Fingerprint:
    """What `Fingerprint.with_key` over each key gives."""
    hashes = keys[:, 0].byteswap()  # the first half of a key, read big-endian
    return Fingerprint(int((hashes >> np.uint64(32)).sum()), int((hashes & np.uint64(0xFFFF_FFFF)).sum()))


async def _enter_exclusive(connection: Connection) -> None:
    """The epoch lock, and little patience for a table lock under it: every batch waits meanwhile."""
    await epoch.enter_exclusive(connection)
    await connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{TABLE_LOCK_TIMEOUT_MS}ms",))


def _id(row: tuple[int | None, ...] | None) -> int | None:
    return None if row is None else row[0]
