"""Draft the invoice of one organisation and month: one transaction, at most one invoice that stands.

1  look for it before anything is calculated: the same request again gets the invoice that stands
2  lock the period row and look again: whoever waited finds the other's draft
3  lock out new prices; read parties, prices and sealed usage; calculate (pure)
4  invoice, lines, taxes, idempotency key, attempt, audit
                            the unique index decides whatever came past 2: the loser reads the winner's
crash anywhere: nothing happened; the next attempt begins at 1

Locks, in this order: period row, price lock (shared), rows of the new invoice.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from decimal import Decimal

import uuid_utils
from psycopg import errors
from psycopg.types.json import Jsonb

from services.invoicer import attempts, prices
from services.invoicer.attempts import Attempt
from services.invoicer.calculate import calculate
from services.invoicer.document import Document, canonical, sha256
from services.invoicer.gather import Organisation, gather, read_organisation
from shared.audit.append import append
from shared.domain.errors import NeedsPerson, Rejected
from shared.domain.period import Month
from shared.postgres.pool import Connection
from shared.usage.seal import Cut


@dataclass(frozen=True, slots=True)
class Drafted:
    """The invoice that stands and how this attempt came to it."""

    invoice_id: str
    attempt: Attempt


def idempotency_key(organisation_id: str, month: Month) -> str:
    """R2.2. Unambiguous although ids may hold underscores: year and month are always the last two parts."""
    return f"invoice_{organisation_id}_{month.year}_{month.month:02}"


def parameters_sha256(organisation: Organisation, month: Month, cut: Cut) -> bytes:
    """What an invoice was asked for; the same key with another value is a contradiction."""
    asked = {
        "kind": "monthly",
        "organisation": organisation.id,
        "month": str(month),
        "currency": organisation.currency,
        "cut": cut.id,
    }
    return sha256(canonical(asked))


async def draft(connection: Connection, organisation_id: str, month: Month, cut: Cut, actor: str) -> Drafted | None:
    """The month's invoice, made now or before; None when there is nothing to bill (no line with a price).

    Runs in the caller's transaction. Raises `Rejected("other_parameters")` for a key that was used for something
    else, NeedsPerson for what stops this organisation alone (`gather`, tax, `arithmetic`), Rejected
    (`invalid_quantity`, `invalid_gstin`) for data that cannot be billed.
    """
    organisation = await read_organisation(connection, organisation_id)
    key, parameters = idempotency_key(organisation_id, month), parameters_sha256(organisation, month, cut)

    if (standing := await _standing(connection, key, parameters)) is not None:
        return await _attempted(connection, key, standing, Attempt.REPLAYED, actor)

    await _lock_period(connection, organisation_id, month)
    if (standing := await _standing(connection, key, parameters)) is not None:
        return await _attempted(connection, key, standing, Attempt.LOST_RACE, actor)

    await prices.lock_for_reading(connection)
    terms, used = await gather(connection, organisation, month, cut)
    if not any(line.charge for line in terms.lines):
        return None
    document = calculate(terms, used)
    try:
        async with connection.transaction():
            invoice_id = await _insert(connection, organisation_id, month, cut, document)
            await connection.execute(
                "INSERT INTO billing.idempotency (key, parameters_sha256, invoice_id) VALUES (%s, %s, %s)",
                (key, parameters, invoice_id),
            )
    except errors.UniqueViolation:
        winner = await _standing(connection, key, parameters)
        if winner is None:
            raise Rejected(
                "other_parameters", f"an invoice of {organisation_id} for {month} stands without the key {key}"
            ) from None
        return await _attempted(connection, key, winner, Attempt.LOST_RACE, actor)
    except errors.CheckViolation as error:
        raise NeedsPerson("arithmetic", f"the database refused the draft: {error.diag.message_primary}") from error
    await append(
        connection,
        actor=actor,
        action="invoice.drafted",
        object_kind="invoice",
        object_id=invoice_id,
        organisation_id=organisation_id,
        details={"month": str(month), "total_minor": document["totals"]["total_minor"], "cut": cut.id},
    )
    return await _attempted(connection, key, invoice_id, Attempt.CREATED, actor)


async def discard(connection: Connection, invoice_id: str, actor: str) -> None:
    """Put a draft aside so that the month can be drafted again; what is no draft any more is left alone.

    Runs in the caller's transaction. Crash after it: no invoice stands, the next attempt drafts.
    """
    row = await (
        await connection.execute(
            """
            UPDATE billing.invoice SET state = 'cancelled', cancelled_at = now()
            WHERE id = %s AND state = 'draft' RETURNING organisation_id
            """,
            (invoice_id,),
        )
    ).fetchone()
    if row is None:
        return
    await connection.execute(
        "UPDATE billing.idempotency SET retired_at = now() WHERE invoice_id = %s AND retired_at IS NULL", (invoice_id,)
    )
    await append(
        connection,
        actor=actor,
        action="invoice.draft_discarded",
        object_kind="invoice",
        object_id=invoice_id,
        organisation_id=row[0],
    )


async def _attempted(connection: Connection, key: str, invoice_id: str, attempt: Attempt, actor: str) -> Drafted:
    await attempts.record(connection, key, attempt, actor)
    return Drafted(invoice_id, attempt)


async def _standing(connection: Connection, key: str, parameters: bytes) -> str | None:
    row = await (
        await connection.execute(
            """
            SELECT invoice_id::text, parameters_sha256 FROM billing.idempotency
            WHERE key = %s AND retired_at IS NULL
            """,
            (key,),
        )
    ).fetchone()
    if row is None:
        return None
    if bytes(row[1]) != parameters:
        raise Rejected(
            "other_parameters",
            f"{key} stands for invoice {row[0]}, which was made from another cut or currency; cancel that one first",
        )
    return str(row[0])


async def _lock_period(connection: Connection, organisation_id: str, month: Month) -> None:
    period = (organisation_id, month.year, month.month)
    await connection.execute(
        "INSERT INTO billing.period (organisation_id, year, month) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", period
    )
    await connection.execute(
        "SELECT 1 FROM billing.period WHERE organisation_id = %s AND year = %s AND month = %s FOR UPDATE", period
    )


async def _insert(connection: Connection, organisation_id: str, month: Month, cut: Cut, document: Document) -> str:
    content, totals = canonical(document), document["totals"]
    # Ordered by time, so that new rows fall on the same few index pages; checked by uuid.UUID.
    invoice_id = str(uuid.UUID(str(uuid_utils.uuid7())))
    await connection.execute(
        """
        INSERT INTO billing.invoice
            (id, organisation_id, year, month, state, currency, cut_id, subtotal_minor, discount_minor, tax_minor,
             total_minor, content, content_text, content_sha256, engine_version)
        VALUES (%s, %s, %s, %s, 'draft', %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            invoice_id,
            organisation_id,
            month.year,
            month.month,
            document["currency"],
            cut.id,
            totals["subtotal_minor"],
            totals["discount_minor"],
            totals["tax_minor"],
            totals["total_minor"],
            Jsonb(document),
            content.decode(),
            sha256(content),
            document["engine_version"],
        ),
    )
    lines = [*document["lines"], *document["informational"]]
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            INSERT INTO billing.invoice_line
                (invoice_id, position, item, description, sac, first_day, last_day, quantity, unit, billable,
                 price_id, exact_amount, amount_minor)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (
                    invoice_id,
                    position,
                    line["item"],
                    line["description"],
                    line.get("sac"),
                    line["first_day"],
                    line["last_day"],
                    Decimal(line["quantity"]),
                    line["unit"],
                    line["billable"],
                    line["price"]["id"] if line["billable"] else None,
                    Decimal(line["exact_amount"]) if line["billable"] else Decimal(0),
                    line["amount_minor"] if line["billable"] else 0,
                )
                for position, line in enumerate(lines, start=1)
            ],
        )
        await cursor.executemany(
            """
            INSERT INTO billing.invoice_tax (invoice_id, head, rate, taxable_minor, amount_minor)
            VALUES (%s, %s, %s, %s, %s)
            """,
            [
                (invoice_id, tax["head"], Decimal(tax["rate"]), tax["taxable_minor"], tax["amount_minor"])
                for tax in document["tax"]
            ],
        )
    return invoice_id
