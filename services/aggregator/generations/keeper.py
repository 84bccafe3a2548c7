"""What happens to generations in the background; counting of usage waits for none of it.

One process of all (leadership `identities`), each step a transaction of its own:

    1  roll: the open generation has reached its size or age -> close it, open the next (epoch lock, exclusive)
                                     crash before COMMIT: nothing happened; after: 2 finds it
    2  freeze and count: count and fingerprint of a closed generation are told (epoch lock, exclusive, for the telling)
                                     crash: it is counted again; nothing changes it any more
    3  detach what is older than any event that is taken (epoch lock, exclusive), then drop its table
                                     crash between: the next look drops it

One process of each folder: build a filter that is missing and move it into its place.
                                     crash: the next builder removes the part that is left and builds again

Every process: take up the filters that are there.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from services.aggregator.generations import files, store
from services.aggregator.generations.bloom import Bloom
from services.aggregator.generations.filters import Filters
from services.aggregator.generations.store import Generation, Listed
from shared.domain.errors import DatabaseAway
from shared.domain.identity import Fingerprint
from shared.observability import logging
from shared.observability import names as metrics
from shared.postgres import epoch
from shared.postgres.leadership import Candidate, candidate
from shared.postgres.pool import Connection, Database, Role, is_lock_timeout
from shared.runtime.failpoints import failpoint
from shared.runtime.pause import pause
from shared.runtime.settings import DatabaseSettings

ROLE: Role = "khata_aggregator"
LOOK_EVERY_S = 2.0
AGAIN_S = 2.0

for _reason in ("database", "filter", "differs"):  # told as 0 from the start: the first failure is an increase
    metrics.IDENTITY_KEEPER_FAILURES.labels(_reason)

T = TypeVar("T")
log = logging.get(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """When a generation is rolled, and how long a closed one is kept."""

    keys: int
    age: timedelta
    keep: timedelta


@dataclass
class Keeper:
    """Of one process. `run` never ends by itself and never raises for a database or disk that fails."""

    settings: DatabaseSettings
    database: Database
    filters: Filters
    limits: Limits
    _lock_timeouts: int = field(default=0, init=False)

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                async with candidate(self.settings, ROLE, "identities") as leader:
                    while not await pause(stop, 0):
                        await self.turn(leader, stop)
                        await pause(stop, LOOK_EVERY_S)
            except DatabaseAway as away:
                metrics.IDENTITY_KEEPER_FAILURES.labels("database").inc()
                log.warning("identity.keeper_waits", error=str(away))
                await self._after_lock_timeout(away)
                await pause(stop, AGAIN_S)

    async def turn(self, leader: Candidate, stop: asyncio.Event) -> None:
        """One look at everything. Raises DatabaseAway."""
        if await leader.leads("identities"):
            await leader.still()
            await self._lead(stop)
        async with self.database.connection() as connection:
            rows = await store.listed(connection)
        missing = await asyncio.to_thread(self.filters.look, [row.generation for row in rows if not row.detached_at])
        self._tell(rows)
        if self.filters.folder is not None and await leader.leads(
            f"filters:{socket.gethostname()}:{self.filters.folder}"
        ):
            await self._build(self.filters.folder, missing, stop)
            for row in rows:
                if row.dropped_at is not None and row.generation.keys is not None:
                    files.remove(self.filters.folder, row.generation)

    async def _lead(self, stop: asyncio.Event) -> None:
        async with self.database.connection() as connection:
            full = await store.due(connection, self.limits.keys, self.limits.age)
            old = await store.old(connection, self.limits.keep)
        if full is not None and (opened := await roll(self.database, full)) is not None:
            log.info("identity.rolled", closed=full, opened=opened)
        await self._count(stop)
        if old:
            gone = await self._transaction(lambda connection: store.detach(connection, self.limits.keep))
            log.info("identity.detached", generation=gone)
            await failpoint("aggregator.generation.before_drop")
        while (gone := await self._transaction(store.drop)) is not None:
            log.info("identity.dropped", generation=gone)
        self._lock_timeouts = 0

    async def _count(self, stop: asyncio.Event) -> None:
        async with self.database.connection() as connection:
            closed = await store.uncounted(connection)
        if closed is None:
            return
        await self._transaction(lambda connection: store.freeze(connection, closed))
        await failpoint("aggregator.generation.before_count")
        counted = await count_keys(self.database, closed, stop)
        if counted is not None:
            keys, fingerprint = counted
            await self._transaction(lambda connection: store.store_count(connection, closed, keys, fingerprint))
            log.info("identity.counted", generation=closed, keys=keys)

    async def _build(self, folder: Path, missing: Sequence[Generation], stop: asyncio.Event) -> None:
        """The newest of those that are missing: it is asked for most."""
        if not missing:
            return
        wanted = missing[-1]
        try:
            files.prepare(folder, wanted)
            bloom = await build(self.database, wanted, stop)
            if bloom is None:
                return
            part = await asyncio.to_thread(files.write, folder, wanted, bloom)
            await failpoint("aggregator.filter.before_rename")
            files.put(part, files.path_of(folder, wanted))
        except OSError as error:
            metrics.IDENTITY_KEEPER_FAILURES.labels("filter").inc()
            log.warning("identity.filter_not_written", generation=wanted.id, error=str(error))
            return
        log.info("identity.filter_built", generation=wanted.id, keys=wanted.keys, bytes=len(bloom.bits))
        self.filters.take_up(wanted)

    async def _transaction(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async with self.database.transaction() as connection:
            return await work(connection)

    async def _after_lock_timeout(self, away: DatabaseAway) -> None:
        """As a batch does: who waits twice for the epoch lock ends the frozen process that holds it."""
        self._lock_timeouts = self._lock_timeouts + 1 if is_lock_timeout(away) else 0
        if self._lock_timeouts >= 2:
            await end_stale_holders(self.database)

    def _tell(self, rows: Sequence[Listed]) -> None:
        living = [row for row in rows if row.detached_at is None]
        closed = [row for row in living if row.generation.closed]
        held = [row for row in closed if self.filters.of(row.generation)]
        metrics.IDENTITY_GENERATIONS.labels("open").set(len(living) - len(closed))
        metrics.IDENTITY_GENERATIONS.labels("filtered").set(len(held))
        metrics.IDENTITY_GENERATIONS.labels("unfiltered").set(len(closed) - len(held))
        metrics.IDENTITY_KEYS.labels("open").set(sum(row.size or 0 for row in living if not row.generation.closed))
        metrics.IDENTITY_KEYS.labels("closed").set(sum(row.generation.keys or row.size or 0 for row in closed))


async def end_stale_holders(database: Database) -> None:
    try:
        async with database.connection() as connection:
            await epoch.end_stale_holders(connection)
    except DatabaseAway as away:
        log.warning("identity.stale_holders_not_ended", error=str(away))


async def roll(database: Database, expected: int) -> int | None:
    """Close `expected`; the new generation's id, None when there was nothing to close. Raises DatabaseAway."""
    async with database.transaction() as connection:
        opened = await store.roll(connection, expected)
        await failpoint("aggregator.generation.before_roll")
    return opened


async def count_keys(database: Database, generation: int, stop: asyncio.Event) -> tuple[int, Fingerprint] | None:
    """Exact count and fingerprint of a frozen generation; None when `stop` comes first. Raises DatabaseAway."""
    keys, fingerprint = 0, Fingerprint()
    async for chunk in store.keys_of(database, generation):
        if stop.is_set():
            return None
        keys += len(chunk)
        fingerprint += store.fingerprint_of(chunk)
    return keys, fingerprint


async def build(database: Database, generation: Generation, stop: asyncio.Event) -> Bloom | None:
    """The filter over a counted generation; None when `stop` comes first. Raises DatabaseAway.

    Also None when it holds other keys than were counted, which cannot be, short of a damaged table.
    """
    assert generation.keys is not None
    bloom, keys, fingerprint = Bloom.over(generation.keys), 0, Fingerprint()
    async for chunk in store.keys_of(database, generation.id):
        if stop.is_set():
            return None
        keys += len(chunk)
        fingerprint += store.fingerprint_of(chunk)
        await asyncio.to_thread(bloom.add, chunk)
    if (keys, fingerprint) != (generation.keys, generation.fingerprint):
        metrics.IDENTITY_KEEPER_FAILURES.labels("differs").inc()
        log.error("identity.generation_differs", generation=generation.id, counted=generation.keys, found=keys)
        return None
    return bloom
