"""Identities that are there already: closed generations of random keys, each behind its filter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psycopg

from benchmarks.stack import BenchParts
from services.aggregator.generations import files, keeper, store
from services.aggregator.generations.filters import Filters
from services.aggregator.generations.store import Generation
from shared.postgres.pool import Database


async def fill(
    parts: BenchParts, database: Database, filters: Filters, report: Callable[[str], None], size: int, generations: int
) -> tuple[list[float], list[float], list[float]]:
    """Closed generations of `size` random keys: ms to roll each, us a key to count and to build its filter."""
    rolled, counted, built = [], [], []
    folder, never = filters.folder, asyncio.Event()
    assert folder is not None
    for number in range(1, generations + 1):
        report(f"generation {number} of {generations}: {size:,} keys")
        generation = (await generations_of(database))[-1].id
        with psycopg.connect(parts.database_url, autocommit=True) as owner:
            owner.execute(
                """
                INSERT INTO usage.identity (generation, key, fingerprint, partition, log_offset)
                SELECT %(id)s::integer, md5(%(id)s || ':' || number)::uuid, 1, 0, number
                FROM generate_series(1, %(size)s) AS number
                """,
                {"id": generation, "size": size},
            )
        began = time.perf_counter()
        await keeper.roll(database, generation)
        rolled.append((time.perf_counter() - began) * 1e3)
        async with database.transaction() as connection:
            await store.freeze(connection, generation)
        began = time.perf_counter()
        found = await keeper.count_keys(database, generation, never)
        counted.append((time.perf_counter() - began) / size * 1e6)
        assert found is not None, "nobody stops it"
        async with database.transaction() as connection:
            await store.store_count(connection, generation, *found)
        one = (await generations_of(database))[-2]
        files.prepare(folder, one)
        began = time.perf_counter()
        bloom = await keeper.build(database, one, never)
        assert bloom is not None, "it holds what was counted"
        files.put(files.write(folder, one, bloom), files.path_of(folder, one))
        built.append((time.perf_counter() - began) / size * 1e6)
    assert filters.look(await generations_of(database)) == [], "each has its filter"
    return rolled, counted, built


async def generations_of(database: Database) -> tuple[Generation, ...]:
    async with database.connection() as connection:
        return await store.generations(connection)


@asynccontextmanager
async def opened(parts: BenchParts) -> AsyncIterator[Database]:
    database = Database(parts.database, "khata_aggregator", "bench")
    await database.open()
    try:
        yield database
    finally:
        await database.close()
