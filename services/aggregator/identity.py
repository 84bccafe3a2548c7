"""Claim identities: which events are fresh, which were seen, which contradict what was seen.

Fresh is what `INSERT ... ON CONFLICT DO NOTHING` has inserted, nothing else. Fingerprints of the others are read in a
second statement: one statement cannot see a row that was committed while it waited.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec

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
    connection: Connection, claims: Sequence[Claim], generations: Sequence[int]
) -> dict[int, Disposition]:
    """Insert what is new into the open generation; DUPLICATE or CONFLICT for each index that is not fresh.

    `claims` in log order; `generations`: all that exist in this epoch. Rows are locked in order of key.
    """
    first: dict[bytes, Claim] = {}
    repeated = [claim for claim in claims if first.setdefault(claim.key, claim) is not claim]
    seen = await _insert(connection, sorted(first.values(), key=_key))
    standing = await _fingerprints(connection, seen, generations)
    found = {}
    for claim in (*repeated, *(first[key] for key in seen)):
        fingerprint = standing.get(claim.key)
        if fingerprint is None:  # repeated within the batch: its first was inserted just now
            fingerprint = first[claim.key].fingerprint
        same = fingerprint == claim.fingerprint
        found[claim.index] = Disposition.DUPLICATE if same else Disposition.CONFLICT
    return found


def _key(claim: Claim) -> bytes:
    return claim.key


async def _insert(connection: Connection, claims: Sequence[Claim]) -> list[bytes]:
    """Keys that were there already."""
    rows = await (
        await connection.execute(
            """
            WITH claim AS (
                SELECT * FROM unnest(%b::uuid[], %b::bigint[], %b::integer[], %b::bigint[])
                    AS claim (key, fingerprint, partition, log_offset)
            ), inserted AS (
                INSERT INTO usage.identity (generation, key, fingerprint, partition, log_offset)
                SELECT (SELECT id FROM usage.generation WHERE closed_at IS NULL), claim.* FROM claim
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
            ),
            binary=True,
        )
    ).fetchall()
    return [row[0].bytes for row in rows]


async def generations(connection: Connection) -> tuple[int, ...]:
    """Every generation of identities; constant within an epoch."""
    rows = await (await connection.execute("SELECT id FROM usage.generation ORDER BY id")).fetchall()
    return tuple(row[0] for row in rows)


async def _fingerprints(connection: Connection, keys: Sequence[bytes], generations: Sequence[int]) -> dict[bytes, int]:
    if not keys:
        return {}
    rows = await (
        await connection.execute(
            # The generation leads the primary key: without it the whole table is read.
            """
            SELECT key, fingerprint FROM usage.identity
            WHERE generation = ANY(%b::integer[]) AND key = ANY(%b::uuid[])
            """,
            (list(generations), [UUID(bytes=key) for key in keys]),
            binary=True,
        )
    ).fetchall()
    return {row[0].bytes: row[1] for row in rows}
