"""Finalize a draft: one transaction from which the invoice is owed.

1  lock the invoice row; one that is finalized already is returned as it is
2  check the arithmetic: columns, lines, taxes and document say the same (R8.1)
3  lock out new prices and sellers; what is drafted must be what would be drafted now, or StaleDraft
4  post to the ledger and open the balance; close the month's cases
5  lock the number series, the last lock taken: allot the number and the date
6  freeze the final content; outbox row for invoices.v1; audit
7  COMMIT                   crash before: no number is spent, no gap; the draft is finalized by the next attempt

Locks, in this order: invoice row, price lock (shared), balance row, case rows, number series row (held until COMMIT:
no gaps).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from psycopg import errors
from psycopg.types.json import Jsonb

from services.invoicer import cases, prices
from services.invoicer.calculate import calculate
from services.invoicer.document import Document, canonical, numbered, sha256
from services.invoicer.gather import gather, read_organisation
from services.invoicer.totals import Totals
from shared.audit.append import append
from shared.contracts.messages.invoice import InvoiceMessage, encode_invoice
from shared.domain.errors import KhataError, NeedsPerson
from shared.domain.period import Month, indian_financial_year, time_zone
from shared.ledger import store
from shared.ledger.posting import finalize_posting
from shared.postgres import outbox
from shared.postgres.outbox import OutboxMessage
from shared.postgres.pool import Connection
from shared.runtime.failpoints import failpoint
from shared.usage.seal import cut_of

IST = time_zone("Asia/Kolkata")
NUMBER_MOST = 16  # CGST Rule 46(b)

DatabaseClock = Callable[[Connection], Awaitable[datetime]]


async def database_now(connection: Connection) -> datetime:
    """When the transaction began, by the one clock that all who finalize share."""
    row = await (await connection.execute("SELECT now()")).fetchone()
    assert row is not None
    now: datetime = row[0]
    return now


class StaleDraft(KhataError):
    """The draft is not what would be drafted now (a price, the seller or the customer came or changed), or it was
    discarded for that: discard it and draft again."""


@dataclass(frozen=True, slots=True)
class Finalized:
    """`replayed`: it was finalized before."""

    invoice_id: str
    number: str
    issued_on: date
    currency: str
    total_minor: int
    replayed: bool


async def finalize(
    connection: Connection, invoice_id: str, topic: str, actor: str, clock: DatabaseClock = database_now
) -> Finalized:
    """Finalize in the caller's transaction. `topic` is the real name of invoices.v1.

    Raises StaleDraft; NeedsPerson: `arithmetic` (what is stored does not add up), `series_full` (the next number
    would be longer than the law allows), `number_taken`, and what stops a draft now (`gather`).
    """
    row = await (
        await connection.execute(
            """
            SELECT organisation_id, year, month, state, currency, number, issued_on, content,
                   subtotal_minor, discount_minor, tax_minor, total_minor, content_text
            FROM billing.invoice WHERE id = %s FOR UPDATE
            """,
            (invoice_id,),
        )
    ).fetchone()
    assert row is not None, f"invoice {invoice_id} does not exist"
    organisation_id, year, month, state, currency, number, issued_on, document = row[:8]
    if state == "finalized":
        return Finalized(invoice_id, number, issued_on, currency, row[11], replayed=True)
    if state == "cancelled":
        raise StaleDraft(f"draft {invoice_id} was discarded; draft the month again")
    await _check_arithmetic(connection, invoice_id, document, row[8:12])
    await _check_current(connection, invoice_id, organisation_id, Month(year, month), row[12])

    posting = finalize_posting(
        invoice_id=invoice_id,
        organisation_id=organisation_id,
        currency=currency,
        taxable_minor=document["totals"]["taxable_minor"],
        tax_minor_by_head=_by_head(document),
    )
    await store.open_invoice(connection, invoice_id, organisation_id, currency)
    posted = await store.post(connection, posting)
    assert posted, f"the ledger has posted draft {invoice_id} before"

    await cases.close_cases(connection, cases.month_object(organisation_id, Month(year, month)), actor)

    seller = document["seller"]
    number, issued_on = await _allot(connection, seller["gstin"], seller["series"], clock)
    await _freeze(connection, invoice_id, numbered(document, number, issued_on), number, issued_on)
    total_minor = document["totals"]["total_minor"]
    message = InvoiceMessage(
        "finalized", invoice_id, organisation_id, number, year, month, currency, total_minor, issued_on
    )
    await outbox.add(connection, [OutboxMessage(topic, organisation_id.encode(), encode_invoice(message))])
    await append(
        connection,
        actor=actor,
        action="invoice.finalized",
        object_kind="invoice",
        object_id=invoice_id,
        organisation_id=organisation_id,
        details={"number": number, "issued_on": issued_on.isoformat(), "total_minor": total_minor},
    )
    await failpoint("invoicer.finalize.before_commit")
    return Finalized(invoice_id, number, issued_on, currency, total_minor, replayed=False)


def _by_head(document: Document) -> dict[str, int]:
    sums: dict[str, int] = {}
    for tax in document["tax"]:
        sums[tax["head"]] = sums.get(tax["head"], 0) + tax["amount_minor"]
    return sums


async def _check_arithmetic(
    connection: Connection, invoice_id: str, document: Document, columns: tuple[Any, ...]
) -> None:
    """Step 2. The trigger of the table compares the sums once more, whoever finalizes."""
    sums = await (
        await connection.execute(
            """
            SELECT coalesce((SELECT sum(amount_minor) FROM billing.invoice_line WHERE invoice_id = %(id)s), 0)::bigint,
                   coalesce((SELECT sum(amount_minor) FROM billing.invoice_tax WHERE invoice_id = %(id)s), 0)::bigint
            """,
            {"id": invoice_id},
        )
    ).fetchone()
    assert sums is not None
    said = document["totals"]
    try:
        totals = Totals(*columns)
        if tuple(columns) != tuple(
            said[name] for name in ("subtotal_minor", "discount_minor", "tax_minor", "total_minor")
        ):
            raise ValueError(f"the document says {said}, the columns {columns}")
        if sums != (totals.subtotal_minor, totals.tax_minor):
            raise ValueError(f"lines sum to {sums[0]} and taxes to {sums[1]}, the invoice says {totals}")
        if said["taxable_minor"] != totals.taxable_minor:
            raise ValueError(f"the document taxes {said['taxable_minor']}, but {totals.taxable_minor} is taxable")
    except ValueError as error:
        raise NeedsPerson("arithmetic", f"draft {invoice_id}: {error}") from None


async def _check_current(
    connection: Connection, invoice_id: str, organisation_id: str, month: Month, content_text: str
) -> None:
    """Step 3. A close that died between draft and finalize leaves a draft from before whatever was applied since."""
    cut = await cut_of(connection, organisation_id, month)
    assert cut is not None, f"draft {invoice_id} was made from a sealed month"
    await prices.lock_for_reading(connection)
    terms, used = await gather(connection, await read_organisation(connection, organisation_id), month, cut)
    if canonical(calculate(terms, used)) != content_text.encode():
        raise StaleDraft(f"draft {invoice_id} is not what prices and parties say now; draft the month again")


async def _allot(connection: Connection, gstin: str, series: str, clock: DatabaseClock) -> tuple[str, date]:
    """Step 5: the next number of the series' financial year (IST), and a date that never goes back."""
    today = (await clock(connection)).astimezone(IST).date()
    financial_year = indian_financial_year(today)
    row = await (
        await connection.execute(
            """
            INSERT INTO billing.number_series AS counter (gstin, series, financial_year, next_number, last_issued_on)
            VALUES (%s, %s, %s, 2, %s)
            ON CONFLICT (gstin, series, financial_year) DO UPDATE
            SET next_number = counter.next_number + 1,
                last_issued_on = greatest(counter.last_issued_on, excluded.last_issued_on)
            RETURNING next_number - 1, last_issued_on
            """,
            (gstin, series, financial_year, today),
        )
    ).fetchone()
    assert row is not None
    number = f"{series}/{financial_year[2:]}/{row[0]:06}"
    if len(number) > NUMBER_MOST:
        raise NeedsPerson("series_full", f"{number} is longer than {NUMBER_MOST} characters; begin another series")
    return number, row[1]


async def _freeze(connection: Connection, invoice_id: str, document: Document, number: str, issued_on: date) -> None:
    content = canonical(document)
    try:
        await connection.execute(
            """
            UPDATE billing.invoice
            SET state = 'finalized', number = %s, issued_on = %s, content = %s, content_text = %s,
                content_sha256 = %s, finalized_at = now()
            WHERE id = %s
            """,
            (number, issued_on, Jsonb(document), content.decode(), sha256(content), invoice_id),
        )
    except errors.CheckViolation as error:
        raise NeedsPerson("arithmetic", f"draft {invoice_id}: {error.diag.message_primary}") from error
    except errors.UniqueViolation as error:
        raise NeedsPerson(
            "number_taken", f"{number} is next in its series, but another invoice has it; mend billing.number_series"
        ) from error
