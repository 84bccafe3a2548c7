"""Try again what Razorpay refused, once a person has corrected the reason."""

from __future__ import annotations

from services.payments.cases import close_cases
from services.payments.collect import CREATE_LINK
from shared.audit.append import append
from shared.postgres.pool import Database


async def retry_refused(database: Database, actor: str) -> list[str]:
    """Every failed link intent becomes pending again, its case closed; returns the references. Safe to repeat: the
    next attempt looks at Razorpay before it creates."""
    async with database.transaction() as connection:
        rows = await (
            await connection.execute(
                """
                UPDATE messaging.intent SET state = 'pending', due_at = now(), updated_at = now()
                WHERE kind = %s AND state = 'failed' RETURNING key, organisation_id
                """,
                (CREATE_LINK,),
            )
        ).fetchall()
        for key, organisation_id in rows:
            await close_cases(connection, key, ("link_refused", "link_differs"))
            await append(
                connection,
                actor=actor,
                action="payment_link.retried",
                object_kind="payment_link",
                object_id=key,
                organisation_id=organisation_id,
            )
    return sorted(row[0] for row in rows)
