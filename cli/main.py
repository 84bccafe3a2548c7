"""The `khata` command: composes the groups and turns errors into one sentence and an exit code."""

from __future__ import annotations

import os
import sys

import typer
from rich.console import Console
from rich.markup import escape

from cli.stack.running import adopt
from shared.domain.errors import KhataError
from shared.observability import logging
from shared.runtime.service import exit_code

app = typer.Typer(
    name="khata",
    help="Meter usage, invoice it with GST, collect through Razorpay, prove every number.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def compose() -> typer.Typer:
    """All command groups. Imported here, so that `khata run ingest` loads only what it needs."""
    from cli import catalogue, db, dev, keys, meters, offsets, run, spools, topics
    from cli.demo.command import demo, proof
    from services.aggregator.commands import app as anomalies
    from services.aggregator.corrections.commands import app as corrections
    from services.aggregator.dead_letters.commands import app as dead_letters
    from services.aggregator.generations.commands import app as identities
    from services.aggregator.reconcile.commands import app as usage
    from services.console.commands import trace
    from services.ingest.commands import app as events
    from services.invoicer.commands import app as invoices
    from services.payments.commands import app as payments

    app.add_typer(run.app, name="run")
    app.add_typer(catalogue.app, name="catalogue")
    app.add_typer(meters.app, name="meters")
    app.add_typer(keys.app, name="keys")
    app.add_typer(topics.app, name="topics")
    app.add_typer(spools.app, name="spools")
    app.add_typer(db.app, name="db")
    events.command("trace")(trace)
    app.add_typer(events, name="events")
    app.add_typer(anomalies, name="anomalies")
    app.add_typer(corrections, name="corrections")
    app.add_typer(dead_letters, name="dead-letters")
    app.add_typer(identities, name="identities")
    app.add_typer(offsets.app, name="offsets")
    app.add_typer(usage, name="usage")
    app.add_typer(invoices, name="invoices")
    app.add_typer(payments, name="payments")
    app.add_typer(dev.app, name="dev")
    app.command("demo")(demo)
    app.command("proof")(proof)
    return app


def main() -> None:
    """Exit codes: 0, 1 failure, 2 usage, 69 dependency away, 78 configuration."""
    if len(sys.argv) >= 3 and sys.argv[1] == "run" and not sys.argv[2].startswith("-"):
        from cli.run import run_service

        raise SystemExit(run_service(sys.argv[2]))  # a service tells its own errors in its own log
    logging.configure("cli", os.environ.get("LOG_LEVEL", "WARNING"), "console", stream=sys.stderr)
    try:
        adopt()
        compose()()
    except KhataError as error:
        Console(stderr=True, soft_wrap=True).print(f"[red]khata:[/red] {escape(str(error))}", highlight=False)
        raise SystemExit(exit_code(error)) from None
