"""Claim identities: which events are fresh, which were seen, which contradict what was seen.

    1  closed generations: each key that a filter lets pass, or all where there is no filter, is probed by index
    2  the others are inserted into the open generation; fresh is what `INSERT ... ON CONFLICT DO NOTHING` has inserted,
       nothing else
    3  fingerprints of what was not inserted are read in a second statement: one statement cannot see a row that was
       committed while it waited

A key never stands in two generations. Keys are claimed under the shared epoch lock and a roll takes it exclusively: a
key that another batch has claimed before the roll is committed and found by 1, one claimed in the same epoch meets the
primary key in 2. Closed generations do not change, so between 1 and 2 nothing can come into them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from services.aggregator.generations.bloom import words
from services.aggregator.generations.filters import Filters
from services.aggregator.generations.store import Generation
from shared.observability import names as metrics
from shared.postgres.binary import Int4Array, Int8Array, UuidArray
from shared.postgres.pool import Connection
from shared.usage.segment import Disposition


class Claim(msgspec.Struct, frozen=True, gc=False):
    """One event of the batch that wants to count. `index` is its record's place in the batch."""

    index: int
    key: bytes
    fingerprint: int
    partition: int
    offset: int


async def claim_identities(
    connection: Connection, claims: Sequence[Claim], generations: Sequence[Generation], filters: Filters
) -> dict[int, Disposition]:
    """Insert what is new into the open generation; DUPLICATE or CONFLICT for each index that is not fresh.

    `claims` in log order; `generations`: all of this epoch, the open one last. Rows are locked in order of key.
    """
    first: dict[bytes, Claim] = {}
    repeated = [claim for claim in claims if first.setdefault(claim.key, claim) is not claim]
    keys = sorted(first)
    *closed, opened = generations
    standing = await _closed(connection, keys, closed, filters)
    seen = await _insert(connection, opened.id, [first[key] for key in keys if key not in standing])
    standing |= await _fingerprints(connection, [opened.id] * len(seen), seen)
    assert standing.keys() >= set(seen), "what could not be inserted is there"
    found = {}
    for claim in (*repeated, *(first[key] for key in standing)):
        fingerprint = standing.get(claim.key)
        if fingerprint is None:  # repeated within the batch: its first was inserted just now
            fingerprint = first[claim.key].fingerprint
        same = fingerprint == claim.fingerprint
        found[claim.index] = Disposition.DUPLICATE if same else Disposition.CONFLICT
    return found


async def _closed(
    connection: Connection, keys: Sequence[bytes], closed: Sequence[Generation], filters: Filters
) -> dict[bytes, int]:
    """Fingerprints of those of `keys` that stand in a closed generation."""
    ids, probed = _probes(keys, closed, filters)
    found = await _fingerprints(connection, ids, probed)
    metrics.IDENTITY_PROBES.labels("found").inc(len(found))
    metrics.IDENTITY_PROBES.labels("not_found").inc(len(probed) - len(found))
    return found


def _probes(keys: Sequence[bytes], closed: Sequence[Generation], filters: Filters) -> tuple[list[int], list[bytes]]:
    """(generation, key) to look up; generation by generation, keys in order."""
    ids: list[int] = []
    probed: list[bytes] = []
    halves = words(keys)
    for generation in closed:
        bloom = filters.of(generation)
        if bloom is None:
            maybe = list(keys)
        else:
            maybe = [keys[place] for place in bloom.maybe(halves)]
            metrics.IDENTITY_FILTER_CHECKS.labels("maybe").inc(len(maybe))
            metrics.IDENTITY_FILTER_CHECKS.labels("no").inc(len(keys) - len(maybe))
        ids += [generation.id] * len(maybe)
        probed += maybe
    return ids, probed


async def _insert(connection: Connection, generation: int, claims: Sequence[Claim]) -> list[bytes]:
    """Keys that were there already."""
    rows = await (
        await connection.execute(
            """
            WITH claim AS (
                SELECT * FROM unnest(%b::uuid[], %b::bigint[], %b::integer[], %b::bigint[])
                    AS claim (key, fingerprint, partition, log_offset)
            ), inserted AS (
                INSERT INTO usage.identity (generation, key, fingerprint, partition, log_offset)
                SELECT %b::integer, claim.* FROM claim
                ON CONFLICT DO NOTHING
                RETURNING key
            )
            SELECT key FROM claim WHERE NOT EXISTS (SELECT FROM inserted WHERE inserted.key = claim.key)
            """,
            (
                UuidArray([claim.key for claim in claims]),
                Int8Array([claim.fingerprint for claim in claims]),
                Int4Array([claim.partition for claim in claims]),
                Int8Array([claim.offset for claim in claims]),
                generation,
            ),
            binary=True,
        )
    ).fetchall()
    return [row[0].bytes for row in rows]


async def _fingerprints(connection: Connection, generations: Sequence[int], keys: Sequence[bytes]) -> dict[bytes, int]:
    """Fingerprints of those (generation, key) pairs that are there."""
    if not keys:
        return {}
    rows = await (
        await connection.execute(
            # LIMIT keeps it one probe of one partition's primary key for each pair, whatever the planner thinks of
            # their number: as a join, or as `key = ANY`, it reads whole generations when a few hundred are asked.
            """
            SELECT probe.key, standing.fingerprint
            FROM unnest(%b::integer[], %b::uuid[]) AS probe (generation, key) CROSS JOIN LATERAL (
                SELECT fingerprint FROM usage.identity
                WHERE identity.generation = probe.generation AND identity.key = probe.key LIMIT 1
            ) AS standing
            """,
            (Int4Array(generations), UuidArray(keys)),
            binary=True,
        )
    ).fetchall()
    return {row[0].bytes: row[1] for row in rows}
