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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.aggregator.generations.bloom import words
from services.aggregator.generations.filters import Filters
from services.aggregator.generations.store import Generation
from shared.observability import names as metrics
from shared.postgres.binary import Int4Array, Int8Array, UuidArray
from shared.postgres.pool import Connection
from shared.usage.segment import Disposition


@dataclass(frozen=True, slots=True)
class Claims:
    """Events that want to count, in log order, column by column; a claim is named by its place."""

    keys: Sequence[bytes]
    fingerprints: NDArray[np.int64]
    partitions: NDArray[np.int64]
    offsets: NDArray[np.int64]


async def claim_identities(
    connection: Connection, claims: Claims, generations: Sequence[Generation], filters: Filters
) -> dict[int, Disposition]:
    """Insert what is new into the open generation; DUPLICATE or CONFLICT for the place of each claim that is not fresh.

    `generations`: all of this epoch, the open one last. Rows are locked in order of key.
    """
    if not claims.keys:
        return {}
    first = _first_of_each(claims.keys)
    keys = sorted(first)
    *closed, opened = generations
    standing = await _closed(connection, keys, closed, filters)
    places = [first[key] for key in keys if key not in standing] if standing else [first[key] for key in keys]
    seen = await _insert(connection, opened.id, claims, places)
    standing |= await _fingerprints(connection, [opened.id] * len(seen), seen)
    assert standing.keys() >= set(seen), "what could not be inserted is there"
    found = {}
    for place in (*_repeated(claims.keys, first), *(first[key] for key in standing)):
        key = claims.keys[place]
        fingerprint = standing.get(key)
        if fingerprint is None:  # repeated within the batch: its first was inserted just now
            fingerprint = claims.fingerprints[first[key]]
        same = fingerprint == claims.fingerprints[place]
        found[place] = Disposition.DUPLICATE if same else Disposition.CONFLICT
    return found


def _first_of_each(keys: Sequence[bytes]) -> dict[bytes, int]:
    """Key -> the first place it has."""
    places = range(len(keys))
    return dict(zip(reversed(keys), reversed(places), strict=True))


def _repeated(keys: Sequence[bytes], first: Mapping[bytes, int]) -> list[int]:
    """Places that are not the first of their key."""
    return [] if len(first) == len(keys) else [place for place, key in enumerate(keys) if first[key] != place]


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


async def _insert(connection: Connection, generation: int, claims: Claims, places: Sequence[int]) -> list[bytes]:
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
                UuidArray([claims.keys[place] for place in places]),
                Int8Array(claims.fingerprints[places]),
                Int4Array(claims.partitions[places]),
                Int8Array(claims.offsets[places]),
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
