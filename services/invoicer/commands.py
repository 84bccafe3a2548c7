"""`khata invoices`: close a month, verify, list, show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from services.invoicer import read
from services.invoicer.close import CloseReport, Deps, close_month
from services.invoicer.progress import Progress, Stage
from services.invoicer.settings import InvoicerSettings
from services.invoicer.verify import VerifyReport, verify
from shared.audit.append import operator
from shared.domain.money import format_money
from shared.domain.period import Month
from shared.postgres.current import current_database
from shared.runtime.output import Output, OutputOption, show, show_document, stderr, wait_for
from shared.runtime.service import EXIT_FAILURE
from shared.runtime.settings import DatabaseSettings, load

app = typer.Typer(help="Monthly invoices: close, verify, list, show.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Monthly invoices: close, verify, list, show."""


@app.command()
def close(
    month: str = typer.Option(..., help="YYYY-MM; over in the time zone of every organisation closed"),
    organisation: list[str] | None = typer.Option(None, help="only these; default: all that have a project"),
    wait: float = typer.Option(60.0, min=0.0, help="seconds to wait until everything accepted is counted"),
    output: Output = OutputOption,
) -> None:
    """Seal a month and issue its invoices. Run it again after anything: what is done stays done.

    Exit code 1 when an organisation is parked with a case, 69 when what was accepted is not counted in time.
    """
    period, settings = Month.parse(month), load(InvoicerSettings)

    async def work(progress: Progress) -> CloseReport:
        async with current_database(settings, "khata_invoicer", "invoices") as database:
            deps = Deps(settings, database, operator(), wait_s=wait)
            return await close_month(deps, period, organisation or None, progress)

    with _bar() as progress:
        report = wait_for(work(progress))
    show([_outcome_row(outcome, output) for outcome in report.outcomes], output, title=f"Invoices for {report.month}")
    if report.stopped:
        stderr.print(f"{len(report.stopped)} organisation(s) need a person; mend it and close again", markup=False)
        raise typer.Exit(EXIT_FAILURE)


@app.command("verify")
def verify_invoices(
    numbers: list[str] | None = typer.Argument(None, help="invoice numbers; default: all"),
    month: str | None = typer.Option(None, help="YYYY-MM: only invoices for this month"),
    output: Output = OutputOption,
) -> None:
    """Count usage again from the archive, price it again, compare byte for byte. Exit code 1 when one differs."""
    period, settings = Month.parse(month) if month else None, load(DatabaseSettings)

    async def work() -> list[VerifyReport]:
        async with current_database(settings, "khata_invoicer", "invoices") as database:
            return await verify(database, operator(), numbers=numbers or (), month=period)

    with stderr.status("counting again"):
        reports = wait_for(work())
    show([_report_row(report, output) for report in reports], output)
    if not all(report.equal for report in reports):
        raise typer.Exit(EXIT_FAILURE)


@app.command("list")
def list_invoices(
    month: str | None = typer.Option(None, help="YYYY-MM"),
    organisation: str | None = typer.Option(None, help="only this one's"),
    output: Output = OutputOption,
) -> None:
    """Invoices with their standing, which is read from the ledger."""
    period, settings = Month.parse(month) if month else None, load(DatabaseSettings)

    async def work() -> list[read.Listed]:
        async with (
            current_database(settings, "khata_reader", "invoices") as database,
            database.connection() as connection,
        ):
            return await read.list_invoices(connection, period, organisation)

    rows = [
        {
            "number": invoice.number,
            "organisation": invoice.organisation_id,
            "month": str(invoice.month),
            "issued_on": invoice.issued_on,
            **_money("total", invoice.total_minor, invoice.currency, output),
            "standing": invoice.standing,
        }
        for invoice in wait_for(work())
    ]
    show(rows, output)


@app.command("show")
def show_invoice(number: str = typer.Argument(help="KH/26-27/000001"), output: Output = OutputOption) -> None:
    """One invoice: lines, tax, totals, how it stands."""
    settings = load(DatabaseSettings)

    async def work() -> read.Shown:
        async with (
            current_database(settings, "khata_reader", "invoices") as database,
            database.connection() as connection,
        ):
            return await read.show_invoice(connection, number)

    shown = wait_for(work())
    if output is Output.JSON:
        show_document(
            {"invoice_id": shown.invoice_id, "standing": shown.standing, "left_minor": shown.left_minor}
            | {"document": shown.document}
        )
        return
    _print_invoice(shown)


def _print_invoice(shown: read.Shown) -> None:
    document = shown.document
    currency, totals = document["currency"], document["totals"]
    seller, customer, place = document["seller"], document["customer"], document["place_of_supply"]
    typer.echo(f"Tax invoice {document['number']} of {document['issued_on']} for {document['period']['month']}")
    typer.echo(f"From  {seller['name']}, {seller['address']}, GSTIN {seller['gstin']}")
    typer.echo(f"To    {customer['name']}, {customer['address'] or '-'}, GSTIN {customer['gstin'] or 'unregistered'}")
    typer.echo(f"Place of supply  {place['name']} ({place['code']}); reverse charge: no")
    show([_line_row(line, currency) for line in [*document["lines"], *document["informational"]]], Output.TABLE)
    rows = [("Subtotal", totals["subtotal_minor"]), ("Discount", -totals["discount_minor"])]
    rows += [
        (f"{tax['head']} {tax['rate']} % on {format_money(tax['taxable_minor'], currency)}", tax["amount_minor"])
        for tax in document["tax"]
    ]
    rows += [("Total", totals["total_minor"]), ("Still to pay", shown.left_minor)]
    show([{"": text, "amount": format_money(minor, currency)} for text, minor in rows], Output.TABLE)
    if document["amount_in_words"]:
        typer.echo(document["amount_in_words"])
    typer.echo(f"Standing: {shown.standing}")


def _line_row(line: dict[str, Any], currency: str) -> dict[str, Any]:
    price = line.get("price")
    definition = price["definition"] if price else {}
    per = f" per {definition['per']}" if definition.get("per", "1") != "1" else ""
    return {
        "description": line["description"],
        "SAC": line.get("sac"),
        "days": f"{line['first_day']} to {line['last_day']}",
        "quantity": line["quantity"],
        "unit": line["unit"],
        "price": f"{definition['unit_amount']}{per}" if price else "informational",
        "amount": format_money(line["amount_minor"], currency) if price else None,
    }


def _outcome_row(outcome: Any, output: Output) -> dict[str, Any]:
    return {
        "organisation": outcome.organisation_id,
        "result": outcome.result.value,
        "number": outcome.number,
        **_money("total", outcome.total_minor, outcome.currency, output),
        "problem": outcome.problem,
    }


def _report_row(report: VerifyReport, output: Output) -> dict[str, Any]:
    return {
        "number": report.number,
        "organisation": report.organisation_id,
        "equal": report.equal if output is Output.JSON else ("equal" if report.equal else "DRIFT"),
        "difference": list(report.difference) if output is Output.JSON else "\n".join(report.difference),
    }


def _money(name: str, minor: int | None, currency: str | None, output: Output) -> dict[str, Any]:
    """For programs minor units and currency, for people one text."""
    if output is Output.JSON:
        return {f"{name}_minor": minor, "currency": currency}
    return {name: None if minor is None or currency is None else format_money(minor, currency)}


@contextmanager
def _bar() -> Iterator[Progress]:
    """Progress on stderr: one row per stage."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=stderr) as bar:
        rows: dict[str, Any] = {}

        def tell(stage: Stage) -> None:
            if stage.text not in rows:
                rows[stage.text] = bar.add_task(stage.text, total=stage.total or 1)
            bar.update(rows[stage.text], completed=stage.done if stage.total else 1, total=stage.total or 1)

        yield tell
