"""What the commands show: read as the reader role, never changed here."""

from __future__ import annotations

from typing import Any

from psycopg.rows import dict_row

from shared.postgres.pool import Connection

Row = dict[str, Any]
MOST_ROWS = 1_000


async def payments(connection: Connection, number: str | None = None) -> list[Row]:
    """Payments, newest first; of one invoice when its number is given."""
    return await _rows(
        connection,
        """
        SELECT payment.id AS payment, payment.status, payment.amount_minor, payment.currency, payment.method,
               invoice.number AS invoice, payment.organisation_id AS organisation, payment.posted_at,
               (SELECT string_agg(open_case.class, ', ' ORDER BY open_case.class) FROM payments.case AS open_case
                WHERE open_case.object_id = payment.id AND open_case.closed_at IS NULL) AS cases
        FROM payments.payment LEFT JOIN billing.invoice ON invoice.id = payment.invoice_id
        WHERE %(number)s::text IS NULL OR invoice.number = %(number)s
        ORDER BY payment.first_seen_at DESC, payment.id LIMIT %(most)s
        """,
        {"number": number, "most": MOST_ROWS},
    )


async def cases(connection: Connection, *, closed: bool = False) -> list[Row]:
    """Open cases, oldest first; with `closed` also those that are done."""
    return await _rows(
        connection,
        """
        SELECT id, class, object_id AS object, organisation_id AS organisation, evidence, proposed_action, opened_at,
               closed_at
        FROM payments.case WHERE closed_at IS NULL OR %(closed)s ORDER BY opened_at, id LIMIT %(most)s
        """,
        {"closed": closed, "most": MOST_ROWS},
    )


async def links(connection: Connection, number: str | None = None) -> list[Row]:
    """Payment links, newest first, with what became of the intent to make each."""
    return await _rows(
        connection,
        """
        SELECT invoice.number AS invoice, link.organisation_id AS organisation, link.amount_minor, link.currency,
               link.status, link.link_id AS link, link.short_url, intent.state AS intent, intent.attempts,
               intent.error
        FROM payments.link
        LEFT JOIN billing.invoice ON invoice.id = link.invoice_id
        LEFT JOIN messaging.intent ON intent.kind = 'payment_link.create' AND intent.key = link.reference_id
        WHERE %(number)s::text IS NULL OR invoice.number = %(number)s
        ORDER BY link.created_at DESC, link.reference_id LIMIT %(most)s
        """,
        {"number": number, "most": MOST_ROWS},
    )


async def _rows(connection: Connection, query: str, values: dict[str, Any]) -> list[Row]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query, values)
        return await cursor.fetchall()
