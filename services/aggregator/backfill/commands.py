"""`khata meters backfill`: how far new meters have counted the events from before them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from services.aggregator.backfill import store
from services.aggregator.backfill.store import Listed
from shared.domain.errors import Retryable, Usage
from shared.postgres.current import current_database
from shared.postgres.pool import Database
from shared.runtime.output import Output, OutputOption, show, show_document, stderr, wait_for
from shared.runtime.settings import DatabaseSettings, load

app = typer.Typer(help="New meters and the events from before them.", no_args_is_help=True)

LOOK_EVERY_S = 0.3


@app.callback()
def group() -> None:
    """New meters and the events from before them."""


@app.command("list")
def list_backfills(output: Output = OutputOption) -> None:
    """Every meter that was back-filled, the newest first."""
    show([_line(one) for one in wait_for(_listed(load(DatabaseSettings)))], output)


@app.command("show")
def show_backfill(meter: str = typer.Argument(help="id of the meter"), output: Output = OutputOption) -> None:
    """One meter's back-fill, partition by partition."""
    one, partitions = wait_for(_shown(load(DatabaseSettings), meter))
    rows = [
        {"partition": number, "start": start, "next": at, "end": end, "left": end - at}
        for number, start, at, end in partitions
    ]
    if output is Output.JSON:
        show_document(_line(one) | {"partitions": rows})
        return
    show([_line(one)], output)
    show(rows, output)


@app.command("wait")
def wait(
    meter: str = typer.Argument(help="id of the meter"),
    timeout: float = typer.Option(3600.0, min=0, help="give up after so many seconds (exit code 69)"),
    output: Output = OutputOption,
) -> None:
    """Return when it is done: then the meter's windows are whole, and months can be closed."""
    settings = load(DatabaseSettings)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(SpinnerColumn(), *columns, console=stderr, disable=not stderr.is_terminal, transient=True) as bar:
        task = bar.add_task(f"back-fill of {meter}: offsets", total=None)
        done = wait_for(
            _wait(settings, meter, timeout, lambda one: bar.update(task, completed=one.offsets_done, total=one.offsets))
        )
    show([_line(done)], output)


def _line(one: Listed) -> dict[str, Any]:
    return {
        "meter": one.meter_id,
        "version": one.meter_version,
        "state": "running" if one.finished_at is None else "done",
        "percent": 100 if one.offsets == 0 else one.offsets_done * 100 // one.offsets,
        "offsets": one.offsets,
        "offsets_done": one.offsets_done,
        "events": one.events,
        "refused": one.refused,
        "begun_at": one.begun_at.isoformat(),
        "finished_at": one.finished_at and one.finished_at.isoformat(),
        "sealed_months_not_billed": one.sealed_months,
    }


async def _listed(settings: DatabaseSettings) -> list[Listed]:
    async with current_database(settings, "khata_reader", "backfill") as database, database.connection() as connection:
        return await store.listed(connection)


async def _shown(settings: DatabaseSettings, meter: str) -> tuple[Listed, list[tuple[int, int, int, int]]]:
    async with current_database(settings, "khata_reader", "backfill") as database:
        one = await _one(database, meter)
        async with database.connection() as connection:
            return one, await store.partitions(connection, one.cut_id)


async def _one(database: Database, meter: str) -> Listed:
    """Raises Usage."""
    async with database.connection() as connection:
        found = await store.listed(connection, [meter])
    if not found:
        raise Usage(f"meter {meter} was not back-filled; `khata meters backfill list` names those that were")
    return found[0]


async def _wait(settings: DatabaseSettings, meter: str, timeout_s: float, told: Callable[[Listed], None]) -> Listed:
    """Raises Usage, Retryable when it is not done in time."""
    end = time.monotonic() + timeout_s
    async with current_database(settings, "khata_reader", "backfill") as database:
        while True:
            one = await _one(database, meter)
            told(one)
            if one.finished_at is not None:
                return one
            if time.monotonic() >= end:
                raise Retryable(
                    f"the back-fill of {meter} is not done after {timeout_s:g} s ({one.offsets_done} of {one.offsets} "
                    "offsets): `khata run aggregator` does it, and its log says `backfill.` and why it stands"
                )
            await asyncio.sleep(LOOK_EVERY_S)
