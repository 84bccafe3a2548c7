"""`khata corrections`: what voids and amends have done, and which still wait."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import orjson
import typer

from services.aggregator.corrections import listed
from services.aggregator.corrections.listed import Selection
from shared.domain.errors import Usage
from shared.domain.identity import identity_key
from shared.postgres.current import current_database
from shared.runtime.instants import instant
from shared.runtime.output import Output, OutputOption, show, show_document, wait_for
from shared.runtime.settings import DatabaseSettings, load

app = typer.Typer(help="Corrections of events: voids and amends.", no_args_is_help=True)

LimitOption = typer.Option(100, min=1, max=100_000, help="at most so many")


class State(StrEnum):
    PARKED = "parked"
    APPLIED = "applied"
    REFUSED = "refused"
    ALL = "all"


@app.callback()
def group() -> None:
    """Corrections of events: voids and amends."""


@app.command("list")
def list_corrections(
    state: State = typer.Option(State.ALL, help="what became of them"),
    project: str | None = typer.Option(None, "--project", "-p", help="of this project only"),
    code: str | None = typer.Option(None, help="why parked or refused, like target_unknown, other_subject, voided"),
    since: str | None = typer.Option(None, help="arrived then or later: 2026-10-01T12:00:00Z, 2026-10-01, 24h (ago)"),
    limit: int = LimitOption,
    output: Output = OutputOption,
) -> None:
    """Corrections, the newest first. A parked one waits for its target: by project, source, id, mode and subject."""
    wanted = Selection(
        None if state is State.ALL else state.value,
        project,
        code,
        instant(since, datetime.now(UTC)) if since else None,
        limit,
    )
    show(wait_for(_list(load(DatabaseSettings), wanted)), output)


@app.command("show")
def show_correction(
    source: str = typer.Argument(help="the correction's source"),
    id: str = typer.Argument(help="the correction's id"),
    project: str = typer.Option(..., "--project", "-p", help="whose it is"),
    test: bool = typer.Option(False, "--test", help="of a test event"),
    output: Output = OutputOption,
) -> None:
    """Everything about one correction, and the adjustments it made or took back."""
    found = wait_for(_show(load(DatabaseSettings), identity_key(project, not test, source, id)))
    if found is None:
        raise Usage(
            f"no correction {id!r} of source {source!r} and project {project!r} has been applied, parked or refused; "
            f"`khata corrections list --project {project}` names those there are, `khata events trace` tells of dead "
            "letters"
        )
    if output is Output.JSON:
        show_document(orjson.loads(orjson.dumps(found)))
        return
    adjustments = found.pop("adjustments")
    show([{"what": name, "value": value} for name, value in found.items() if value not in (None, "")], output)
    if adjustments:
        show(adjustments, output, title="adjustments")


@app.command("dirty")
def list_dirty(limit: int = LimitOption, output: Output = OutputOption) -> None:
    """Windows that wait to be looked at again, those that wait longest first. No month is sealed with one."""
    show(wait_for(_dirty(load(DatabaseSettings), limit)), output)


async def _list(settings: DatabaseSettings, wanted: Selection) -> list[dict[str, Any]]:
    async with _reader(settings) as database, database.connection() as connection:
        return await listed.corrections(connection, wanted)


async def _show(settings: DatabaseSettings, key: bytes) -> dict[str, Any] | None:
    async with _reader(settings) as database, database.connection() as connection:
        return await listed.one(connection, key)


async def _dirty(settings: DatabaseSettings, limit: int) -> list[dict[str, Any]]:
    async with _reader(settings) as database, database.connection() as connection:
        return await listed.dirty(connection, limit)


def _reader(settings: DatabaseSettings) -> Any:
    return current_database(settings, "khata_reader", "corrections")
