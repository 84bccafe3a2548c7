"""Waived spools: an operator's word that a silent spool need not be waited for.

What such a spool still holds arrives later and becomes adjustments of the sealed month.
"""

from __future__ import annotations

from datetime import datetime

from shared.audit.append import append
from shared.postgres.pool import Connection


async def waive(connection: Connection, spool_id: str, reason: str, actor: str) -> None:
    """From now on, closes do not wait for what this spool accepted before now."""
    await connection.execute(
        "INSERT INTO billing.spool_waiver (spool_id, reason, actor) VALUES (%s, %s, %s)", (spool_id, reason, actor)
    )
    await append(
        connection,
        actor=actor,
        action="spool.waived",
        object_kind="spool",
        object_id=spool_id,
        details={"reason": reason},
    )


async def waived_until(connection: Connection) -> dict[str, datetime]:
    """By spool: closes do not wait for what it accepted before this instant."""
    rows = await (
        await connection.execute("SELECT spool_id, max(waived_at) FROM billing.spool_waiver GROUP BY spool_id")
    ).fetchall()
    return dict(rows)
