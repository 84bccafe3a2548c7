"""`khata payments`: payments, cases and links as they stand; try refused links again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

import typer

from services.payments import reports
from services.payments.reports import Row
from services.payments.retry import retry_refused
from shared.audit.append import operator
from shared.domain.money import format_money
from shared.postgres.current import current_database
from shared.postgres.pool import Connection, Database, Role
from shared.runtime.output import Output, OutputOption, show
from shared.runtime.settings import DatabaseSettings, load

T = TypeVar("T")

app = typer.Typer(help="Payments, their cases and payment links.", no_args_is_help=True)


InvoiceOption = typer.Option(None, "--invoice", help="number of an invoice, like KH/26-27/000001")


@app.command("list")
def list_payments(invoice: str | None = InvoiceOption, output: Output = OutputOption) -> None:
    """Payments and what became of each: posted, or parked with a case."""
    _show(_read(lambda connection: reports.payments(connection, invoice)), output)


@app.command("cases")
def cases(
    closed: bool = typer.Option(False, "--closed", help="also those that are done"), output: Output = OutputOption
) -> None:
    """What does not match and waits for a person."""
    _show(_read(lambda connection: reports.cases(connection, closed=closed)), output)


@app.command("links")
def links(invoice: str | None = InvoiceOption, output: Output = OutputOption) -> None:
    """Payment links: where a customer pays, and what became of the request to Razorpay."""
    _show(_read(lambda connection: reports.links(connection, invoice)), output)


@app.command("retry")
def retry(output: Output = OutputOption) -> None:
    """Ask Razorpay again for every link it refused, after its reason was corrected."""

    async def work(database: Database) -> list[Row]:
        return [{"reference": reference} for reference in await retry_refused(database, operator())]

    _show(_with_database("khata_payments", work), output)


def _read(query: Callable[[Connection], Awaitable[list[Row]]]) -> list[Row]:
    async def work(database: Database) -> list[Row]:
        async with database.connection() as connection:
            return await query(connection)

    return _with_database("khata_reader", work)


def _with_database(role: Role, work: Callable[[Database], Awaitable[T]]) -> T:
    """Raises Misconfigured, DatabaseAway; `cli` turns them into exit codes."""

    async def run() -> T:
        async with current_database(load(DatabaseSettings), role, "cli-payments") as database:
            return await work(database)

    return asyncio.run(run())


def _show(rows: list[Row], output: Output) -> None:
    """JSON has every field as it is stored; the table has amounts as people write them, and times to the second."""
    show(rows if output is Output.JSON else [_readable(row) for row in rows], output)


def _readable(row: Row) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in row.items():
        if name == "amount_minor":
            found["amount"] = format_money(value, row["currency"])
        elif isinstance(value, datetime):
            found[name] = f"{value:%Y-%m-%d %H:%M:%S} UTC"
        elif name != "currency":
            found[name] = json.dumps(value) if isinstance(value, dict) else "" if value is None else str(value)
    return found
