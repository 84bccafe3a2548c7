"""`khata demo` and `khata proof`: what people see of a run."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from cli.demo.proof import Proof
from cli.demo.run import Input, Options, prove_again, run_demo
from cli.stack.running import default_home, given_addresses, running
from cli.stack.services import Plan
from devstack.stack import Stack
from shared.domain.errors import Usage
from shared.domain.money import format_money
from shared.runtime.output import Output, OutputOption, show_document, stderr

MEANING = {
    "accepted": "sends that were answered with yes",
    "rejected": "sends that were refused with a reason",
    "counted": "events that count, each exactly once",
    "duplicates": "sent again, says the same: not counted",
    "conflicts": "same identity, says something else: the first stands",
    "dead_lettered": "unreadable records on Kafka, kept with the reason",
    "missing": "accepted, but nowhere: must be 0",
    "redelivered": "seen more often than answered (crashes, retries)",
    "kills": "processes ended with kill -9 meanwhile",
}


def demo(
    events: int = typer.Option(20_000, min=20, help="good events to send"),
    seed: int = typer.Option(1, help="the same seed sends the same events"),
    kill: bool = typer.Option(False, "--kill", help="kill -9 processes while they work"),
    input: Path | None = typer.Option(None, help="a real CSV, billed to the organisation in the other state"),
    mapping: Path | None = typer.Option(None, help="what its columns mean"),
    prices: Path | None = typer.Option(None, help="its meters and prices"),
    output: Output = OutputOption,
) -> None:
    """Run the whole main job on real parts and prove it: exit 1 unless everything holds."""
    options = Options(events, seed, kill, _input(input, mapping, prices))
    with running(default_home(), _report) as stack:
        with stderr.status("starting") as status:
            proof = asyncio.run(
                run_demo(options, stack, _report, lambda what, done, _: status.update(f"{done:,} {what} answered"))
            )
        _show(proof, output)
        if output is Output.TABLE:
            _where_next(proof, stack.plan, stack.shared)
    if proof.problems:
        raise typer.Exit(1)


def proof(
    run: str = typer.Option(help="the run's id, as `khata demo` printed it"), output: Output = OutputOption
) -> None:
    """Compute the proof of an earlier run again from what Khata holds now."""
    home = default_home()
    kafka, database = given_addresses()
    with Stack.start(home, kafka_bootstrap=kafka, database_url=database, report=_report) as stack:
        plan = Plan.of(home, stack.addresses, os.environ.get("KAFKA_TOPIC_PREFIX", ""))
        os.environ.update(plan.environment())
        found = asyncio.run(prove_again(plan.home, run))
    _show(found, output)
    if found.problems:
        raise typer.Exit(1)


def _input(file: Path | None, mapping: Path | None, prices: Path | None) -> Input | None:
    given = (file, mapping, prices)
    if not any(given):
        return None
    if file is None or mapping is None or prices is None:
        raise Usage("--input, --mapping and --prices belong together: give all three")
    for path in (file, mapping, prices):
        if not path.is_file():
            raise Usage(f"{path}: there is no such file")
    return Input(file, mapping, prices)


def _report(text: str) -> None:
    stderr.print(text, highlight=False, soft_wrap=True, style="dim")


def _show(proof: Proof, output: Output) -> None:
    if output is Output.JSON:
        show_document(asdict(proof))
        return
    console = Console()
    table = Table(title=f"Proof of run {proof.run}", title_justify="left", show_header=False)
    for name, meaning in MEANING.items():
        value = getattr(proof, name)
        table.add_row(name.replace("_", " "), f"{value:,}", f"[dim]{meaning}[/dim]")
    table.add_row("verified", proof.verified, "[dim]invoices rebuilt from the archive, byte for byte[/dim]")
    table.add_row("ledger sum", str(proof.ledger_sum_minor), "[dim]all entries of all time, in paise: must be 0[/dim]")
    table.add_row("seconds", f"{proof.seconds:g}", "")
    table.columns[1].justify = "right"
    console.print(table)
    invoices = Table(title=f"Invoices of {proof.month}", title_justify="left")
    for name in ("number", "organisation", "total", "standing"):
        invoices.add_column(name, justify="right" if name == "total" else "left")
    for each in proof.invoices:
        invoices.add_row(each.number, each.organisation, format_money(each.total_minor, each.currency), each.standing)
    console.print(invoices)
    for problem in proof.problems:
        console.print(f"[red]does not hold:[/red] {problem}", highlight=False)
    console.print("[green]Everything holds.[/green]" if not proof.problems else "[red]Not proven.[/red]")


def _where_next(proof: Proof, plan: Plan, shared: bool) -> None:
    stderr.print(f"\nAgain at any time:  khata proof --run {proof.run}", highlight=False)
    for each in proof.invoices[:1]:
        stderr.print(f"The invoice:        khata invoices show {each.number}", highlight=False)
    if not shared:
        stderr.print("Leave it running:   make up", highlight=False)
    stderr.print(f"Logs of every process: {plan.home}/logs", highlight=False, soft_wrap=True)
