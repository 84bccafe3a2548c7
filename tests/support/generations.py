"""Generations of identities as a test moves them on, step by step; and a keeper as a process, to be killed.

`python -m tests.support.generations <folder> <keys> <age in days>` keeps (database from the environment) until it ends.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from devstack.processes import Child
from services.aggregator.generations import keeper, store
from services.aggregator.generations.filters import Filters
from services.aggregator.generations.keeper import Keeper, Limits
from services.aggregator.generations.store import Generation
from shared.domain.identity import Fingerprint
from shared.observability import logging
from shared.postgres.leadership import candidate
from shared.postgres.pool import Database
from shared.runtime.settings import DatabaseSettings, load
from tests.conftest import Parts
from tests.support.child import module
from tests.support.usage import opened

NEVER = Limits(keys=10**9, age=timedelta(days=400), keep=timedelta(days=430))


async def roll(database: Database) -> int:
    """The open generation is closed; the id of the next."""
    async with database.connection() as connection:
        standing = (await store.generations(connection))[-1].id
    new = await keeper.roll(database, standing)
    assert new is not None, "it was empty"
    return new


async def living(database: Database) -> tuple[Generation, ...]:
    async with database.connection() as connection:
        return await store.generations(connection)


async def keep(settings: DatabaseSettings, database: Database, filters: Filters, limits: Limits = NEVER) -> None:
    """One turn of a keeper of its own."""
    one = Keeper(settings, database, filters, limits)
    async with candidate(settings, keeper.ROLE, "test") as leader:
        await one.turn(leader, asyncio.Event())


def told_and_true(database_url: str) -> Iterator[tuple[int, tuple[int, Fingerprint], tuple[int, Fingerprint]]]:
    """Per counted generation: its id, what is told about it, and what its table holds, added up by Postgres."""
    with psycopg.connect(database_url) as owner:
        rows = owner.execute(
            """
            SELECT id, identity_count, fingerprint_high, fingerprint_low, actual.*
            FROM usage.generation CROSS JOIN LATERAL (
                SELECT count(*), coalesce(sum(('x' || substr(key::text, 1, 8))::bit(32)::bigint), 0)::bigint,
                       coalesce(sum(('x' || substr(replace(key::text, '-', ''), 9, 8))::bit(32)::bigint), 0)::bigint
                FROM usage.identity WHERE generation = id
            ) AS actual
            WHERE identity_count IS NOT NULL AND detached_at IS NULL ORDER BY id
            """
        ).fetchall()
    for id, keys, high, low, *actual in rows:
        yield id, (keys, Fingerprint(high, low)), (actual[0], Fingerprint(actual[1], actual[2]))


def grow_old(database_url: str, generation: int, days: int = 500) -> None:
    """As if it had been closed so long ago."""
    with psycopg.connect(database_url) as owner:
        owner.execute(
            "UPDATE usage.generation SET closed_at = closed_at - make_interval(days => %s) WHERE id = %s",
            (days, generation),
        )


@contextmanager
def keeping(parts: Parts, home: Path, points: Path | None = None, **limits: Any) -> Iterator[Child]:
    """A keeper of its own process, killed at the end."""
    told = (str(home / "filters"), str(limits.get("keys", 10**9)), str(limits.get("days", 400)))
    with module("tests.support.generations", *told, home=home, env=parts.env, points=points) as child:
        yield child


@asynccontextmanager
async def aggregators(parts: Parts) -> AsyncIterator[Database]:
    async with opened(parts.database_url, "khata_aggregator") as database:
        yield database


async def main(folder: str, keys: str, days: str) -> None:
    logging.configure("keeper", "INFO", "json")
    settings = load(DatabaseSettings)
    database = Database(settings, keeper.ROLE, "keeper")
    await database.open()
    limits = Limits(keys=int(keys), age=timedelta(days=float(days)), keep=NEVER.keep)
    keeper.LOOK_EVERY_S = 0.05
    await Keeper(settings, database, Filters(Path(folder)), limits).run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
