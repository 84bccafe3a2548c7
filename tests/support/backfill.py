"""Back-fills as a test moves them on; and a worker as a process, to be killed.

`python -m tests.support.backfill` works (database from the environment) until it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from devstack.processes import Child
from services.aggregator.backfill import store
from services.aggregator.backfill.run import ROLE, Backfiller
from services.aggregator.reconcile.window_pass import HOUR, Compared, compare_windows
from shared.observability import logging
from shared.postgres.pool import Database
from shared.runtime.settings import DatabaseSettings, load
from tests.conftest import Parts
from tests.support.child import module
from tests.support.usage import NOON, TOPIC, Counting, catalogue_rows, opened


async def make(database_url: str, *meters: Mapping[str, Any], backfill: bool = True) -> None:
    """Apply these meters."""
    async with opened(database_url, "khata_catalogue") as database, database.transaction() as connection:
        await catalogue_rows(connection, {"meters": [{**meter, "backfill": backfill} for meter in meters]})


def worker(database_url: str, database: Database) -> Backfiller:
    return Backfiller(DatabaseSettings(database_url=SecretStr(database_url)), database, look_every_s=0.05, rest=0)


async def step(database_url: str, database: Database) -> bool:
    """One slice; False when nothing was left."""
    one = worker(database_url, database)
    async with database.connection() as connection:
        left = await store.stretches(connection)
    if left:
        await one._slice(left[0], await one._work(left[0].cut_id))
    return bool(left)


async def fill(database_url: str, database: Database) -> None:
    """To the end."""
    await worker(database_url, database).turn(asyncio.Event())


async def compared(count: Counting, topic: str = TOPIC, hours: int = 6) -> Compared:
    """Archive against windows, of the hours around NOON."""
    around = (NOON - hours * HOUR, NOON + 18 * HOUR)
    return await compare_windows(count.database, topic, [around], None, lambda _: None)


@contextmanager
def working(parts: Parts, home: Path, points: Path | None = None) -> Iterator[Child]:
    """A worker of its own process, killed at the end."""
    with module("tests.support.backfill", home=home, env=parts.env, points=points) as child:
        yield child


async def main() -> None:
    logging.configure("backfill", "INFO", "json")
    settings = load(DatabaseSettings)
    database = Database(settings, ROLE, "backfill")
    await database.open()
    store.MOST_SEGMENTS = 1  # a slice of each segment
    await Backfiller(settings, database, look_every_s=0.05, rest=0).run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main())
