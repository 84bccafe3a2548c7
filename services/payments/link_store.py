"""`payments.link` (what we asked for) and `payments.link_fact` (what webhooks say). SQL only, no decisions.

Whoever writes ids here holds the locks of the link and the order (`object_locks`).
"""

from __future__ import annotations

from collections.abc import Iterable

from services.payments.facts import LINK_RANKS, LinkFact
from services.payments.gateway import ProviderLink
from services.payments.match import OwnLink, StoredPayment
from shared.contracts.messages.invoice import InvoiceMessage
from shared.postgres.pool import Connection

_COLUMNS = "reference_id, invoice_id::text, organisation_id, amount_minor, currency, link_id, order_id"


async def intend_link(connection: Connection, reference_id: str, invoice: InvoiceMessage) -> bool:
    """The link that we are going to ask for; False when it was intended before."""
    cursor = await connection.execute(
        """
        INSERT INTO payments.link (reference_id, invoice_id, organisation_id, amount_minor, currency)
        VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
        """,
        (reference_id, invoice.invoice_id, invoice.organisation_id, invoice.total_minor, invoice.currency),
    )
    return cursor.rowcount == 1


async def by_reference(connection: Connection, reference_id: str) -> OwnLink | None:
    row = await (
        await connection.execute(f"SELECT {_COLUMNS} FROM payments.link WHERE reference_id = %s", (reference_id,))  # noqa: S608 - our own columns
    ).fetchone()
    return None if row is None else OwnLink(*row)


async def candidates(connection: Connection, payment: StoredPayment) -> list[OwnLink]:
    """Our links that know the payment's order; whether it pays one of them is `match.judge`'s."""
    rows = await (
        await connection.execute(f"SELECT {_COLUMNS} FROM payments.link WHERE order_id = %s", (payment.order_id,))  # noqa: S608 - our own columns
    ).fetchall()
    return [OwnLink(*row) for row in rows]


async def told_orders(connection: Connection, link_ids: Iterable[str]) -> set[str]:
    """Orders that webhooks have told of these links (ids of other objects name none)."""
    rows = await (
        await connection.execute(
            "SELECT order_id FROM payments.link_fact WHERE link_id = ANY(%s) AND order_id IS NOT NULL",
            (list(link_ids),),
        )
    ).fetchall()
    return {row[0] for row in rows}


async def merge_fact(connection: Connection, fact: LinkFact) -> None:
    """What a webhook says of a link; the higher rank decides its status."""
    await connection.execute(
        """
        INSERT INTO payments.link_fact AS known (link_id, order_id, status, rank, amount_minor, amount_paid_minor)
        VALUES (%s, %s, %s, %s, %s, %s)
        ON CONFLICT (link_id) DO UPDATE SET
            status = CASE WHEN excluded.rank > known.rank THEN excluded.status ELSE known.status END,
            rank = greatest(known.rank, excluded.rank),
            order_id = coalesce(known.order_id, excluded.order_id),
            amount_paid_minor = greatest(known.amount_paid_minor, excluded.amount_paid_minor),
            updated_at = now()
        """,
        (fact.link_id, fact.order_id, fact.status, fact.rank, fact.amount_minor, fact.amount_paid_minor),
    )


async def store_created(connection: Connection, link: ProviderLink) -> None:
    """Razorpay's ids of a link that we asked for; a status this code does not know counts as created."""
    status = link.status if link.status in LINK_RANKS else "created"
    await connection.execute(
        """
        UPDATE payments.link
        SET link_id = %s, short_url = %s, status = %s, updated_at = now()
        WHERE reference_id = %s
        """,
        (link.link_id, link.short_url, status, link.reference_id),
    )
    if link.order_id is not None:
        await _learn_order(connection, link.link_id, link.order_id)


async def learn(connection: Connection, link_id: str) -> str | None:
    """Carry what webhooks said of this link over to ours; returns its order, None while either is unknown.

    An order that another of our links has already is left alone: then neither pays by it.
    """
    row = await (
        await connection.execute(
            """
            UPDATE payments.link AS own
            SET status = CASE WHEN fact.rank > known.rank THEN fact.status ELSE own.status END, updated_at = now()
            FROM payments.link_fact AS fact,
                 (VALUES ('intended', -1), ('created', 0), ('partially_paid', 1), ('expired', 2), ('cancelled', 2),
                         ('paid', 3)) AS known (status, rank)
            WHERE own.link_id = %s AND fact.link_id = own.link_id AND known.status = own.status
            RETURNING fact.order_id
            """,
            (link_id,),
        )
    ).fetchone()
    if row is None or row[0] is None:
        return None
    await _learn_order(connection, link_id, row[0])
    return str(row[0])


async def _learn_order(connection: Connection, link_id: str, order_id: str) -> None:
    await connection.execute(
        """
        UPDATE payments.link SET order_id = %(order)s, updated_at = now()
        WHERE link_id = %(link)s AND order_id IS NULL
          AND NOT EXISTS (SELECT FROM payments.link WHERE order_id = %(order)s)
        """,
        {"order": order_id, "link": link_id},
    )
