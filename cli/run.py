"""`khata run SERVICE`: one process of one service, set up by the environment."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

import typer

from shared.runtime.service import EXIT_CONFIGURATION

# Where each service is wired; imported only when it is run, so a process carries only its own libraries.
SERVICES = {
    "ingest": "services.ingest.app",
    "aggregator": "services.aggregator.app",
    "watch": "services.aggregator.watch.app",
    "console": "services.console.app",
    "invoicer": "services.invoicer.app",
    "receiver": "services.payments.receiver_app",
    "payments": "services.payments.app",
    "sandbox": "services.payments.sandbox.app",
}

app = typer.Typer(help="Run one service process (settings come from the environment).", no_args_is_help=True)


def run_service(name: str) -> int:
    """Run it to its end; returns its exit code. Raises nothing: errors are told on stderr."""
    if name not in SERVICES:
        print(f"khata run: there is no service {name!r}; choose {', '.join(SERVICES)}", file=sys.stderr)
        return 2
    try:
        main: Callable[[], int | None] = importlib.import_module(SERVICES[name]).main
    except ModuleNotFoundError as error:
        if error.name != "faust":
            raise
        print("khata run watch: Faust is not installed: install khata[watch]", file=sys.stderr)
        return EXIT_CONFIGURATION
    return main() or 0


def _command(name: str) -> None:
    @app.command(name, help=f"Run one {name} process.")
    def command() -> None:
        code = run_service(name)
        if code:
            raise typer.Exit(code)


for service in SERVICES:
    _command(service)
