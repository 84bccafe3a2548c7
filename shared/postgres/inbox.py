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


async def purge(connection: Connection, consumer: str, most: int) -> int:
    """Forget up to `most` messages that this consumer applied more than 100 days ago; returns how many went."""
    row = await (await connection.execute("SELECT messaging.purge_inbox(%s, %s)", (consumer, most))).fetchone()
    assert row is not None
    return int(row[0])
