"""`payments.payment`: facts of payments, moved forward by rank. SQL only, no decisions.

Whoever writes here holds the locks of the payment's objects (`object_locks`).
"""

from __future__ import annotations

from collections.abc import Iterable

from services.payments.facts import CAPTURED_RANK, PaymentFact
from services.payments.match import StoredPayment
from shared.postgres.pool import Connection


async def merge(connection: Connection, fact: PaymentFact) -> None:
    """The higher rank decides status, amount and currency; ids stay as first known; what is unknown is filled in."""
    await connection.execute(
        """
        INSERT INTO payments.payment AS known (
            id, status, rank, amount_minor, currency, order_id, link_id, method, fee_minor, tax_minor, refunded_minor
        ) VALUES (
            %(id)s, %(status)s, %(rank)s, %(amount)s, %(currency)s, %(order)s, %(link)s, %(method)s, %(fee)s,
            %(tax)s, %(refunded)s
        )
        ON CONFLICT (id) DO UPDATE SET
            status = CASE WHEN excluded.rank > known.rank THEN excluded.status ELSE known.status END,
            amount_minor = CASE WHEN excluded.rank > known.rank THEN excluded.amount_minor ELSE known.amount_minor END,
            currency = CASE WHEN excluded.rank > known.rank THEN excluded.currency ELSE known.currency END,
            rank = greatest(known.rank, excluded.rank),
            order_id = coalesce(known.order_id, excluded.order_id),
            link_id = coalesce(known.link_id, excluded.link_id),
            method = coalesce(known.method, excluded.method),
            fee_minor = coalesce(known.fee_minor, excluded.fee_minor),
            tax_minor = coalesce(known.tax_minor, excluded.tax_minor),
            refunded_minor = greatest(known.refunded_minor, excluded.refunded_minor),
            updated_at = now()
        """,
        {
            "id": fact.id,
            "status": fact.status,
            "rank": fact.rank,
            "amount": fact.amount_minor,
            "currency": fact.currency,
            "order": fact.order_id,
            "link": fact.link_id,
            "method": fact.method,
            "fee": fact.fee_minor,
            "tax": fact.tax_minor,
            "refunded": fact.refunded_minor,
        },
    )


async def captured(connection: Connection, payment_ids: Iterable[str]) -> list[StoredPayment]:
    """Those of them whose money was captured (a refunded one was, too)."""
    rows = await (
        await connection.execute(
            """
            SELECT id, amount_minor, currency, order_id, link_id, refunded_minor, posted_at IS NOT NULL
            FROM payments.payment WHERE id = ANY(%s) AND rank >= %s ORDER BY id
            """,
            (list(payment_ids), CAPTURED_RANK),
        )
    ).fetchall()
    return [StoredPayment(*row) for row in rows]


async def parked_under(connection: Connection, link_id: str | None, order_id: str | None) -> list[str]:
    """Captured payments of this link or order that are not posted yet."""
    rows = await (
        await connection.execute(
            """
            SELECT id FROM payments.payment
            WHERE (link_id = %s OR order_id = %s) AND rank >= %s AND posted_at IS NULL
            """,
            (link_id, order_id, CAPTURED_RANK),
        )
    ).fetchall()
    return [row[0] for row in rows]


async def mark_posted(connection: Connection, payment_id: str, organisation_id: str, invoice_id: str) -> None:
    await connection.execute(
        """
        UPDATE payments.payment SET organisation_id = %s, invoice_id = %s, posted_at = now(), updated_at = now()
        WHERE id = %s
        """,
        (organisation_id, invoice_id, payment_id),
    )
