"""Store postings: inserted where missing, unique on (kind, object id), balances moved once per transaction.

Every money transaction locks the invoice's balance row first (`lock_invoice`), so that what is left to
pay cannot change between deciding and posting. A transaction that posts the same fact again changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.ledger.accounts import Account
from shared.ledger.posting import Posting, Standing, standing
from shared.postgres.pool import Connection


@dataclass(frozen=True, slots=True)
class InvoiceBalance:
    """What is left to pay of one finalized invoice, in minor units."""

    invoice_id: str
    organisation_id: str
    currency: str
    receivable_minor: int


async def lock_invoice(connection: Connection, invoice_id: str) -> InvoiceBalance | None:
    """Lock the invoice's balance until the end of the transaction; None when it was never finalized."""
    row = await (
        await connection.execute(
            """
            SELECT invoice_id::text, organisation_id, currency, receivable_minor
            FROM ledger.invoice_balance WHERE invoice_id = %s FOR UPDATE
            """,
            (invoice_id,),
        )
    ).fetchone()
    return None if row is None else InvoiceBalance(*row)


async def post(connection: Connection, posting: Posting) -> bool:
    """Insert the posting and move its balances; False when the fact was posted before (nothing changes).

    Raises psycopg CheckViolation when more would be taken off a receivable than is left.
    """
    row = await (
        await connection.execute(
            """
            INSERT INTO ledger.posting (kind, object_id, organisation_id, invoice_id) VALUES (%s, %s, %s, %s)
            ON CONFLICT (kind, object_id) DO NOTHING RETURNING id
            """,
            (posting.kind.value, posting.object_id, posting.organisation_id, posting.invoice_id),
        )
    ).fetchone()
    if row is None:
        return False
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            INSERT INTO ledger.entry
                (posting_id, position, account, amount_minor, currency, organisation_id, invoice_id)
            VALUES (%s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (
                    row[0],
                    position,
                    entry.account.value,
                    entry.amount_minor,
                    entry.currency,
                    entry.organisation_id,
                    entry.invoice_id,
                )
                for position, entry in enumerate(posting.entries, start=1)
            ],
        )
    await _move_balances(connection, posting)
    return True


async def _move_balances(connection: Connection, posting: Posting) -> None:
    receivable: dict[tuple[str, str], int] = {}
    credit: dict[str, int] = {}
    for entry in posting.entries:
        if entry.account is Account.RECEIVABLE:
            assert entry.invoice_id is not None
            of = (entry.invoice_id, entry.currency)
            receivable[of] = receivable.get(of, 0) + entry.amount_minor
        elif entry.account is Account.CUSTOMER_CREDIT:
            credit[entry.currency] = credit.get(entry.currency, 0) - entry.amount_minor
    for (invoice_id, currency), amount in sorted(receivable.items()):
        await connection.execute(
            """
            INSERT INTO ledger.invoice_balance AS balance (invoice_id, organisation_id, currency, receivable_minor)
            VALUES (%s, %s, %s, 0) ON CONFLICT (invoice_id) DO NOTHING
            """,
            (invoice_id, posting.organisation_id, currency),
        )
        cursor = await connection.execute(
            """
            UPDATE ledger.invoice_balance SET receivable_minor = receivable_minor + %s
            WHERE invoice_id = %s AND currency = %s
            """,
            (amount, invoice_id, currency),
        )
        assert cursor.rowcount == 1, f"the balance of invoice {invoice_id} is not kept in {currency}"
    for currency, amount in sorted(credit.items()):
        await connection.execute(
            """
            INSERT INTO ledger.customer_balance AS balance (organisation_id, currency, credit_minor)
            VALUES (%s, %s, 0) ON CONFLICT (organisation_id, currency) DO NOTHING
            """,
            (posting.organisation_id, currency),
        )
        await connection.execute(
            """
            UPDATE ledger.customer_balance SET credit_minor = credit_minor + %s
            WHERE organisation_id = %s AND currency = %s
            """,
            (amount, posting.organisation_id, currency),
        )


async def open_invoice(connection: Connection, invoice_id: str, organisation_id: str, currency: str) -> None:
    """Give a finalized invoice its balance row, also when it is over nothing."""
    await connection.execute(
        """
        INSERT INTO ledger.invoice_balance (invoice_id, organisation_id, currency, receivable_minor)
        VALUES (%s, %s, %s, 0) ON CONFLICT (invoice_id) DO NOTHING
        """,
        (invoice_id, organisation_id, currency),
    )


async def invoice_standing(connection: Connection, invoice_id: str) -> Standing:
    """Standing of a finalized invoice, read from the composition of the postings on its receivable."""
    rows = await (
        await connection.execute(
            """
            SELECT posting.kind, sum(entry.amount_minor)::bigint
            FROM ledger.entry JOIN ledger.posting ON posting.id = entry.posting_id
            WHERE entry.invoice_id = %s AND entry.account = %s
            GROUP BY posting.id, posting.kind
            """,
            (invoice_id, Account.RECEIVABLE.value),
        )
    ).fetchall()
    return standing((kind, amount) for kind, amount in rows)


async def sum_of_everything(connection: Connection) -> dict[str, int]:
    """Sum of all entries per currency that is not zero; empty when the ledger balances."""
    rows = await (
        await connection.execute(
            """
            SELECT currency, sum(amount_minor)::bigint FROM ledger.entry
            GROUP BY currency HAVING sum(amount_minor) <> 0
            """
        )
    ).fetchall()
    return dict(rows)
