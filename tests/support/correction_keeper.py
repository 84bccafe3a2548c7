"""The keeper of corrections as a process of its own, to be killed: `python -m tests.support.correction_keeper`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devstack.processes import Child
from services.aggregator.corrections import keeper
from services.aggregator.corrections.keeper import Keeper
from shared.contracts.topics import Names
from shared.observability import logging
from shared.postgres.pool import Database
from shared.runtime.settings import DatabaseSettings, load
from tests.support.child import module


@contextmanager
def keeping(database_url: str, home: Path, points: Path | None = None) -> Iterator[Child]:
    """Killed at the end."""
    env = {"DATABASE_URL": database_url}
    with module("tests.support.correction_keeper", home=home, env=env, points=points) as child:
        yield child


async def main() -> None:
    logging.configure("keeper", "INFO", "json")
    settings = load(DatabaseSettings)
    database = Database(settings, keeper.ROLE, "keeper")
    await database.open()
    keeper.LOOK_EVERY_S = 0.05
    await Keeper(settings, Names(), database).run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main())
