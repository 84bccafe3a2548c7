"""Claiming identities: what a key costs with none and with N already there, beside a plain INSERT of the same keys.

The keys stand in closed generations (5 of them, of 20 million at most each), random as digests are; batches of 5,000
new keys, one transaction each. What a batch does besides (offsets, windows, segments) is the aggregator's figure.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import numpy as np
import psycopg

from benchmarks.figure import Figure
from benchmarks.generations import fill, generations_of, opened
from benchmarks.stack import BenchParts
from services.aggregator.generations.bloom import words
from services.aggregator.generations.filters import Filters
from services.aggregator.identity import Claims, claim_identities
from shared.postgres.binary import Int4Array, Int8Array, UuidArray
from shared.postgres.pool import Connection, Database

KEYS, FULL_KEYS = 5_000_000, 50_000_000
GENERATIONS, MOST_KEYS = 5, 20_000_000
BATCH, BATCHES = 5_000, 12
SEEN = 10  # of 100 keys of a batch with repetitions

Standing = list[tuple[bytes, int]]  # keys that are there, with their fingerprints


def measure(parts: BenchParts, report: Callable[[str], None], keys: int = KEYS) -> list[Figure]:
    return asyncio.run(_measure(parts, report, keys))


async def _measure(parts: BenchParts, report: Callable[[str], None], keys: int) -> list[Figure]:
    dice = random.Random(5)  # noqa: S311
    filters = Filters(parts.home / "filters")
    async with opened(parts) as database:
        report("an empty table")
        plain = await _plain(parts, database, dice)
        empty = await _claims(database, filters, dice, [])
        generations = max(GENERATIONS, -(-keys // MOST_KEYS))
        rolled, counted, built = await fill(parts, database, filters, report, keys // generations, generations)
        report("claiming")
        seen = await _sample(database, generations)
        by_index = await _claims(database, Filters(), dice, [])
        behind = await _claims(database, filters, dice, [])
        repeated = await _claims(database, filters, dice, seen)
        asked, maybe = await _asked(database, filters, dice)
        heap, index = _sizes(parts, keys // generations)
        closed = sum(one.keys or 0 for one in await generations_of(database))
    per_key = sum(path.stat().st_size for path in (parts.home / "filters").iterdir()) / closed
    there = f"{keys:,} keys in {generations} generations"
    limit = "plain INSERT into an empty table"
    return [
        Figure("claim, nothing there", empty, "us/key", limit=limit, limit_runs=plain),
        Figure(f"claim, {there} behind filters", behind, "us/key", limit=limit, limit_runs=plain),
        Figure(f"the same, {SEEN} % repeated", repeated, "us/key", limit=limit, limit_runs=plain),
        Figure(f"claim, {there} without filters", by_index, "us/key", limit=limit, limit_runs=plain),
        Figure("filters alone, each generation", asked, "us/key"),
        Figure("unknown keys that a filter lets pass", [maybe], "%", target=0.5, less_is_better=True),
        Figure("filter built", built, "us/key", note=f"{per_key:.2f} bytes a key on disk, shared by a host"),
        Figure("closed generation counted", counted, "us/key"),
        Figure("rolled", rolled, "ms", note="the epoch lock is held so long"),
        Figure("table and index", [heap + index], "bytes/key", note=f"{heap:.0f} and {index:.0f}"),
    ]


async def _claims(database: Database, filters: Filters, dice: random.Random, seen: Standing) -> list[float]:
    """us a key of claiming batches of new keys, of which SEEN % are exchanged for some of `seen`."""
    generations, costs = await generations_of(database), []
    for number in range(BATCHES):
        again = dice.sample(seen, BATCH * SEEN // 100) if seen else []
        claims = _batch(dice, number, again)
        began = time.perf_counter()
        async with database.transaction() as connection:
            found = await claim_identities(connection, claims, generations, filters)
        costs.append((time.perf_counter() - began) / BATCH * 1e6)
        if len(found) != len(again):
            raise SystemExit(f"{len(found)} were seen, sent were {len(again)}")
    return costs[2:]  # the first ones warm up


def _batch(dice: random.Random, number: int, again: Standing) -> Claims:
    new = [(dice.randbytes(16), 1) for _ in range(BATCH - len(again))]
    keys, fingerprints = zip(*new, *again, strict=True)
    offsets = np.arange(number * BATCH, (number + 1) * BATCH)
    return Claims(keys, np.array(fingerprints), np.zeros(BATCH, np.int64), offsets)


async def _plain(parts: BenchParts, database: Database, dice: random.Random) -> list[float]:
    """us a key of inserting the same rows into a table of the same shape, without any question."""
    with psycopg.connect(parts.database_url, autocommit=True) as owner:
        owner.execute("CREATE TABLE public.bench_identity (LIKE usage.identity INCLUDING ALL)")
        owner.execute("GRANT INSERT ON public.bench_identity TO khata_aggregator")
    costs = []
    for number in range(BATCHES):
        claims = _batch(dice, number, [])
        began = time.perf_counter()
        async with database.transaction() as connection:
            await _insert(connection, claims)
        costs.append((time.perf_counter() - began) / BATCH * 1e6)
    return costs[2:]


async def _insert(connection: Connection, claims: Claims) -> None:
    await connection.execute(
        """
        INSERT INTO public.bench_identity (generation, key, fingerprint, partition, log_offset)
        SELECT 1, * FROM unnest(%b::uuid[], %b::bigint[], %b::integer[], %b::bigint[])
        """,
        (
            UuidArray(claims.keys),
            Int8Array(claims.fingerprints),
            Int4Array(claims.partitions),
            Int8Array(claims.offsets),
        ),
        binary=True,
    )


async def _asked(database: Database, filters: Filters, dice: random.Random) -> tuple[list[float], float]:
    """us a key of asking one generation, and % of unknown keys that pass."""
    costs, passed, asked = [], 0, 0
    for generation in (await generations_of(database))[:-1]:
        bloom = filters.of(generation)
        assert bloom is not None, "each has its filter"
        for _ in range(BATCHES):
            keys = [dice.randbytes(16) for _ in range(BATCH)]
            began = time.perf_counter()
            passed += len(bloom.maybe(words(keys)))
            costs.append((time.perf_counter() - began) / BATCH * 1e6)
            asked += BATCH
    return costs, passed / asked * 100


async def _sample(database: Database, generations: int) -> Standing:
    async with database.connection() as connection:
        rows = await (
            await connection.execute(
                """
                SELECT standing.key, standing.fingerprint FROM generate_series(1, %s) AS number CROSS JOIN LATERAL (
                    SELECT key, fingerprint FROM usage.identity WHERE generation = number LIMIT 2000
                ) AS standing
                """,
                (generations,),
            )
        ).fetchall()
    return [(row[0].bytes, row[1]) for row in rows]


def _sizes(parts: BenchParts, size: int) -> tuple[float, float]:
    """Bytes a key of a closed generation's table and index; the first holds more than `size`."""
    with psycopg.connect(parts.database_url) as owner:
        row = owner.execute(
            "SELECT pg_relation_size('usage.identity_2'), pg_indexes_size('usage.identity_2')"
        ).fetchone()
    assert row is not None
    return row[0] / size, row[1] / size
