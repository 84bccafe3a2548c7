"""Claim identities: which events are fresh, which were seen, which contradict what was seen.

Fresh is what `INSERT ... ON CONFLICT DO NOTHING RETURNING` returned, nothing else. Fingerprints of the
others are read in a second statement: one statement cannot see a row that was committed while it waited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from shared.postgres.pool import Connection
from shared.usage.segment import Disposition


@dataclass(frozen=True, slots=True)
class Claim:
    """One event of the batch that wants to count, in log order. `index` is its record's place in the batch."""

    index: int
    key: bytes
    fingerprint: int
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Split:
    """Indexes by outcome."""

    fresh: frozenset[int]
    duplicates: frozenset[int]
    conflicts: frozenset[int]

    def disposition(self, index: int) -> Disposition | None:
        """Duplicate or conflict; None for a fresh one, which the caller knows more about."""
        if index in self.duplicates:
            return Disposition.DUPLICATE
        return Disposition.CONFLICT if index in self.conflicts else None


async def claim_identities(connection: Connection, claims: Sequence[Claim], generations: Sequence[int]) -> Split:
    """Insert what is new into the open generation and sort the rest. Rows are locked in order of key.

    `generations`: all that exist in this epoch.
    """
    first: dict[bytes, Claim] = {}
    for claim in claims:
        first.setdefault(claim.key, claim)
    inserted = await _insert(connection, sorted(first.values(), key=lambda claim: claim.key))
    seen = await _fingerprints(connection, [key for key in first if key not in inserted], generations)
    fresh: set[int] = set()
    duplicates: set[int] = set()
    conflicts: set[int] = set()
    for claim in claims:
        if claim.key in inserted and first[claim.key] is claim:
            fresh.add(claim.index)
            continue
        standing = first[claim.key].fingerprint if claim.key in inserted else seen[claim.key]
        (duplicates if standing == claim.fingerprint else conflicts).add(claim.index)
    return Split(frozenset(fresh), frozenset(duplicates), frozenset(conflicts))


async def _insert(connection: Connection, claims: Sequence[Claim]) -> set[bytes]:
    rows = await (
        await connection.execute(
            """
            INSERT INTO usage.identity (generation, key, fingerprint, partition, log_offset)
            SELECT (SELECT id FROM usage.generation WHERE closed_at IS NULL), key, fingerprint, partition, log_offset
            FROM unnest(%b::uuid[], %b::bigint[], %b::integer[], %b::bigint[])
                AS claim (key, fingerprint, partition, log_offset)
            ON CONFLICT DO NOTHING
            RETURNING key
            """,
            (
                [UUID(bytes=claim.key) for claim in claims],
                [claim.fingerprint for claim in claims],
                [claim.partition for claim in claims],
                [claim.offset for claim in claims],
            ),
            binary=True,
        )
    ).fetchall()
    return {row[0].bytes for row in rows}


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
