"""The demo's customers: they open the payment link of each invoice and pay it, as people would in a browser."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import httpx2

from shared.domain.errors import Fatal
from shared.ledger.posting import Standing
from shared.ledger.store import invoice_standing
from shared.postgres.pool import Database

PATIENCE_S = 90.0
UPI = "success@razorpay"  # Razorpay: test UPI id


@dataclass(frozen=True, slots=True)
class Bill:
    """A finalized invoice that waits for its payment link."""

    invoice_id: str
    number: str
    total_minor: int


async def bills(database: Database, organisations: Sequence[str], year: int, month: int) -> list[Bill]:
    """The month's finalized invoices of these organisations, in order of number."""
    async with database.connection() as connection:
        rows = await (
            await connection.execute(
                """
                SELECT id::text, number, total_minor FROM billing.invoice
                WHERE organisation_id = ANY(%s) AND year = %s AND month = %s AND state = 'finalized'
                ORDER BY number
                """,
                (list(organisations), year, month),
            )
        ).fetchall()
    return [Bill(*row) for row in rows]


async def link_of(database: Database, bill: Bill) -> str:
    """The short URL of the invoice's payment link, once Razorpay has made it. Raises Fatal when it never does."""
    for _ in range(int(PATIENCE_S / 0.1)):
        async with database.connection() as connection:
            row = await (
                await connection.execute(
                    "SELECT short_url FROM payments.link WHERE invoice_id = %s AND short_url IS NOT NULL",
                    (bill.invoice_id,),
                )
            ).fetchone()
        if row is not None:
            return str(row[0])
        await asyncio.sleep(0.1)
    raise Fatal(f"invoice {bill.number} has no payment link after {PATIENCE_S:g} s: see `khata payments cases`")


async def pay(short_url: str) -> None:
    """Pay the link in full. Paying a paid link again changes nothing."""
    async with httpx2.AsyncClient(timeout=20.0, trust_env=False) as http:
        response = await http.post(f"{short_url}/pay", json={"vpa": UPI})
        response.raise_for_status()


async def wait_paid(database: Database, bill: Bill) -> None:
    """Returns when the invoice stands as paid in the ledger. Raises Fatal when it does not in time."""
    for _ in range(int(PATIENCE_S / 0.1)):
        async with database.connection() as connection:
            if await invoice_standing(connection, bill.invoice_id) is Standing.PAID:
                return
        await asyncio.sleep(0.1)
    raise Fatal(f"invoice {bill.number} is not paid after {PATIENCE_S:g} s: see `khata payments cases`")
