"""The keeper of corrections as a process of its own, to be killed: `python -m tests.support.correction_keeper`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devstack.processes import Child, Command, spawn
from services.aggregator.corrections import keeper
from services.aggregator.corrections.keeper import Keeper
from shared.contracts.topics import Names
from shared.observability import logging
from shared.postgres.pool import Database
from shared.runtime.settings import DatabaseSettings, load


@contextmanager
def keeping(database_url: str, home: Path, points: Path | None = None) -> Iterator[Child]:
    """Killed at the end."""
    argv = (sys.executable, "-m", "tests.support.correction_keeper")
    env = {**os.environ, "DATABASE_URL": database_url}
    env |= {} if points is None else {"KHATA_FAILPOINTS_DIR": str(points)}
    child = spawn(Command("keeper", argv, home / "keeper.log", env))
    try:
        yield child
    finally:
        child.kill()


async def main() -> None:
    logging.configure("keeper", "INFO", "json")
    settings = load(DatabaseSettings)
    database = Database(settings, keeper.ROLE, "keeper")
    await database.open()
    keeper.LOOK_EVERY_S = 0.05
    await Keeper(settings, Names(), database).run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main())
