"""Intents: what must leave for the outside world, carried out by a worker and never twice by accident.

1  `intend` inside the business transaction
2  `claim`: state `claimed`, a lease of a minute, attempts + 1     crash after: the lease runs out
3  the worker acts; from attempt 2 on it first looks up what an earlier attempt may have done
4  `resolve` with the result, or `postpone` with backoff           crash before: back to 2, look-up first
   (a worker whose lease ran out may still resolve what it did, but not undo what its successor found)
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from shared.postgres.pool import Connection

LEASE_S = 60  # longer than any provider call with its timeouts
BACKOFF_FIRST_S = 0.5
BACKOFF_MOST_S = 300.0


@dataclass(frozen=True, slots=True)
class Intent:
    """`attempt` 1 means that no earlier attempt can have acted."""

    id: int
    kind: str
    key: str
    organisation_id: str
    payload: dict[str, Any]
    attempt: int


async def intend(connection: Connection, kind: str, key: str, organisation_id: str, payload: dict[str, Any]) -> bool:
    """Write the intent in the caller's transaction; False when (kind, key) is already intended."""
    cursor = await connection.execute(
        """
        INSERT INTO messaging.intent (kind, key, organisation_id, payload) VALUES (%s, %s, %s, %s)
        ON CONFLICT (kind, key) DO NOTHING
        """,
        (kind, key, organisation_id, Jsonb(payload)),
    )
    return cursor.rowcount == 1


async def claim(connection: Connection, kind: str) -> Intent | None:
    """The next intent that is due, now leased to the caller; None when there is none."""
    row = await (
        await connection.execute(
            """
            UPDATE messaging.intent
            SET state = 'claimed', attempts = attempts + 1, updated_at = now(),
                claimed_until = now() + make_interval(secs => %(lease)s)
            WHERE id = (
                SELECT id FROM messaging.intent
                WHERE kind = %(kind)s
                  AND ((state = 'pending' AND due_at <= now()) OR (state = 'claimed' AND claimed_until < now()))
                ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
            )
            RETURNING id, kind, key, organisation_id, payload, attempts
            """,
            {"kind": kind, "lease": LEASE_S},
        )
    ).fetchone()
    return None if row is None else Intent(*row)


async def release_claims(connection: Connection, kind: str) -> int:
    """Give up leases of a process that is known to be gone (a single worker's own restart)."""
    cursor = await connection.execute(
        "UPDATE messaging.intent SET claimed_until = now() WHERE kind = %s AND state = 'claimed'", (kind,)
    )
    return cursor.rowcount


async def resolve(connection: Connection, intent: Intent, result: dict[str, Any]) -> None:
    """Done: in the transaction that stores what the outcome means."""
    await connection.execute(
        """
        UPDATE messaging.intent
        SET state = 'done', result = %s, error = NULL, claimed_until = NULL, updated_at = now() WHERE id = %s
        """,
        (Jsonb(result), intent.id),
    )


async def postpone(connection: Connection, intent: Intent, error: str) -> None:
    """Try again later: exponential backoff with full jitter."""
    delay = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(intent.attempt, 12)) * random.uniform(0.5, 1.0)  # noqa: S311
    await connection.execute(
        """
        UPDATE messaging.intent
        SET state = 'pending', due_at = now() + make_interval(secs => %s), error = %s,
            claimed_until = NULL, updated_at = now()
        WHERE id = %s AND state = 'claimed' AND attempts = %s
        """,
        (delay, error[:1000], intent.id, intent.attempt),
    )


async def fail(connection: Connection, intent: Intent, error: str) -> None:
    """Give up: a person must look (the caller opens a case in the same transaction)."""
    await connection.execute(
        """
        UPDATE messaging.intent
        SET state = 'failed', error = %s, claimed_until = NULL, updated_at = now()
        WHERE id = %s AND state = 'claimed' AND attempts = %s
        """,
        (error[:1000], intent.id, intent.attempt),
    )


async def purge(connection: Connection, kind: str, most: int) -> int:
    """Forget up to `most` intents that were done more than 400 days ago; returns how many went."""
    row = await (await connection.execute("SELECT messaging.purge_intents(%s, %s)", (kind, most))).fetchone()
    assert row is not None
    return int(row[0])
