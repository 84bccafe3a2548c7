"""`khata identities`: the generations of identities, and closing the open one by hand."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import typer

from services.aggregator.generations import files, keeper, store
from services.aggregator.generations.bloom import Bloom
from services.aggregator.generations.store import Listed
from services.aggregator.settings import FilterSettings
from shared.audit import append as audit
from shared.audit.append import operator
from shared.domain.errors import DatabaseAway
from shared.postgres.current import current_database
from shared.postgres.pool import Database, is_lock_timeout
from shared.runtime.output import Output, OutputOption, show, stderr, wait_for
from shared.runtime.settings import DatabaseSettings, load

app = typer.Typer(help="Identities of events, by which a repetition is told.", no_args_is_help=True)

ATTEMPTS = 5
PAUSE_S = 0.5


class IdentitySettings(FilterSettings, DatabaseSettings):
    """What the commands need."""


@app.callback()
def group() -> None:
    """Identities of events, by which a repetition is told."""


@app.command("list")
def list_generations(output: Output = OutputOption) -> None:
    """Generations, the oldest first. `filter` is this host's, in AGGREGATOR_FILTER_DIR; without one keys are probed."""
    settings = load(IdentitySettings)
    show([_row(one, settings.filter_dir) for one in wait_for(_listed(settings))], output)


@app.command("roll")
def roll_generation(output: Output = OutputOption) -> None:
    """Close the open generation now and open the next; the aggregators go on. An empty one stays open."""
    closed, opened = wait_for(_roll(load(IdentitySettings)))
    show([{"closed": closed if opened else None, "open": opened or closed}], output)


async def _listed(settings: IdentitySettings) -> list[Listed]:
    async with (
        current_database(settings, "khata_reader", "identities") as database,
        database.connection() as connection,
    ):
        return await store.listed(connection)


async def _roll(settings: IdentitySettings) -> tuple[int, int | None]:
    """The generation that was open, and the one opened, if any. Raises DatabaseAway."""
    async with current_database(settings, keeper.ROLE, "identities") as database:
        for attempt in range(1, ATTEMPTS + 1):
            async with database.connection() as connection:
                expected = (await store.generations(connection))[-1].id
            try:
                opened = await keeper.roll(database, expected)
                break
            except DatabaseAway as away:
                if attempt == ATTEMPTS or not is_lock_timeout(away):
                    raise
                stderr.print("the epoch lock is not free; trying again")
                if attempt > 1:
                    await keeper.end_stale_holders(database)
                await asyncio.sleep(PAUSE_S)
        if opened is not None:
            await _audit(database, expected, opened)
    return expected, opened


async def _audit(database: Database, closed: int, opened: int) -> None:
    """After the roll, which changes no number: an entry less is better than a lock held longer."""
    async with database.transaction() as connection:
        await audit.append(
            connection,
            actor=operator(),
            action="identities.rolled",
            object_kind="generation",
            object_id=str(closed),
            details={"opened": opened},
        )


def _row(listed: Listed, folder: Path) -> dict[str, Any]:
    generation = listed.generation
    counted = generation.keys is not None
    state = "closed" if generation.closed else "open"
    if listed.detached_at is not None:
        state = "detached" if listed.dropped_at is None else "dropped"
    told, filter_bytes = "", None
    if counted and state == "closed":
        found = files.read(folder, generation)
        told = "ready" if isinstance(found, Bloom) else found.value
        filter_bytes = found.bits.nbytes if isinstance(found, Bloom) else None
    return {
        "id": generation.id,
        "state": state,
        "opened_at": listed.opened_at.isoformat(),
        "closed_at": listed.closed_at and listed.closed_at.isoformat(),
        "keys": generation.keys if counted else listed.size,
        "exact": counted,
        "bytes": listed.bytes,
        "filter": told,
        "filter_bytes": filter_bytes,
    }
