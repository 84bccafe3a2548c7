"""Read invoices for people: what `list` and `show` tell."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from services.invoicer.document import Document
from shared.domain.errors import Usage
from shared.domain.period import Month
from shared.ledger import store
from shared.postgres.pool import Connection


@dataclass(frozen=True, slots=True)
class Listed:
    """`standing` is read from the ledger; a draft or cancelled invoice has its state there."""

    invoice_id: str
    number: str | None
    organisation_id: str
    month: Month
    currency: str
    total_minor: int
    standing: str
    issued_on: date | None


async def list_invoices(
    connection: Connection, month: Month | None = None, organisation_id: str | None = None
) -> list[Listed]:
    """Invoices by month and number, drafts last."""
    rows = await (
        await connection.execute(
            """
            SELECT id::text, number, organisation_id, year, month, currency, total_minor, state, issued_on
            FROM billing.invoice
            WHERE (%(organisation)s::text IS NULL OR organisation_id = %(organisation)s)
              AND (%(year)s::int IS NULL OR (year, month) = (%(year)s::int, %(month)s::int))
            ORDER BY year, month, number NULLS LAST, organisation_id
            """,
            {
                "organisation": organisation_id,
                "year": month.year if month else None,
                "month": month.month if month else None,
            },
        )
    ).fetchall()
    return [
        Listed(
            invoice_id=row[0],
            number=row[1],
            organisation_id=row[2],
            month=Month(row[3], row[4]),
            currency=row[5],
            total_minor=row[6],
            standing=await _standing(connection, row[0], row[7]),
            issued_on=row[8],
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class Shown:
    """`left_minor` is what is still to be paid."""

    invoice_id: str
    document: Document
    standing: str
    left_minor: int


async def show_invoice(connection: Connection, number: str) -> Shown:
    """Raises Usage when there is no invoice with this number."""
    row = await (
        await connection.execute(
            """
            SELECT invoice.id::text, state, content, coalesce(receivable_minor, 0)
            FROM billing.invoice LEFT JOIN ledger.invoice_balance ON invoice_balance.invoice_id = invoice.id
            WHERE number = %s
            """,
            (number,),
        )
    ).fetchone()
    if row is None:
        raise Usage(f"there is no invoice {number}; `khata invoices list` names them")
    return Shown(row[0], row[2], await _standing(connection, row[0], row[1]), row[3])


async def _standing(connection: Connection, invoice_id: str, state: str) -> str:
    """Nobody sets it: it follows from the postings on the invoice's receivable."""
    return (await store.invoice_standing(connection, invoice_id)).value if state == "finalized" else state
