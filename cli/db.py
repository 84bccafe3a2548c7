"""`khata db migrate`: bring the schema up to this code."""

from __future__ import annotations

import typer

from shared.postgres.migrate import migrate
from shared.runtime.output import Output, OutputOption, show
from shared.runtime.settings import DatabaseSettings, load

app = typer.Typer(help="The database schema.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The database schema."""


@app.command("migrate")
def apply(output: Output = OutputOption) -> None:
    """Apply the missing migrations as the owner role (DATABASE_URL). Safe to run twice, or twice at once."""
    applied = migrate(load(DatabaseSettings).database_url.get_secret_value())
    show([{"applied": name} for name in applied], output)
