"""The inbox: remember which messages a consumer has applied, in the transaction of the effect."""

from __future__ import annotations

from shared.postgres.pool import Connection


async def first_time(connection: Connection, consumer: str, message_id: str) -> bool:
    """Claim a message; False when it was applied before (or is being applied by a transaction that commits)."""
    cursor = await connection.execute(
        "INSERT INTO messaging.inbox (consumer, message_id) VALUES (%s, %s) ON CONFLICT DO NOTHING",
        (consumer, message_id),
    )
    return cursor.rowcount == 1
