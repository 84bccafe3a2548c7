"""What happens to corrections beside the batches; counting of usage waits for none of it.

One process of all (leadership `corrections`) cleans dirty windows and looks again at parked corrections; every process
tells how many wait, and for how long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from services.aggregator.corrections import dirty_store
from services.aggregator.corrections.dirty import clean_some
from services.aggregator.corrections.waiting import BEGINNING, look_again
from shared.contracts.topics import USAGE_EVENTS, Names
from shared.domain.errors import DatabaseAway
from shared.observability import logging
from shared.observability import names as metrics
from shared.postgres import epoch
from shared.postgres.leadership import Candidate, candidate
from shared.postgres.pool import Database, Role, is_lock_timeout
from shared.runtime.pause import first_of, pause
from shared.runtime.settings import DatabaseSettings

ROLE: Role = "khata_aggregator"
LEADERSHIP = "corrections"
LOOK_EVERY_S = 1.0
PARKED_EVERY_S = 5.0
TELL_EVERY_S = 10.0
AGAIN_S = 2.0

log = logging.get(__name__)


@dataclass
class Keeper:
    """Of one process. `run` never ends by itself and never raises for a database that is away."""

    settings: DatabaseSettings
    names: Names
    database: Database
    _after: bytes = field(default=BEGINNING, init=False)
    _parked_at: float = field(default=0.0, init=False)
    _tell_at: float = field(default=0.0, init=False)
    _lock_timeouts: int = field(default=0, init=False)

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                async with candidate(self.settings, ROLE, "corrections") as leader:
                    while not await pause(stop, LOOK_EVERY_S):
                        await self.turn(leader, stop)
            except DatabaseAway as away:
                metrics.CORRECTION_FAILURES.inc()
                log.warning("corrections.keeper_waits", error=str(away))
                await self._after_lock_timeout(away)
                await pause(stop, AGAIN_S)

    async def turn(self, leader: Candidate, stop: asyncio.Event) -> None:
        """One look at everything. Raises DatabaseAway."""
        if time.monotonic() >= self._tell_at:
            self._tell_at = time.monotonic() + TELL_EVERY_S
            await self._tell()
        if not await leader.leads(LEADERSHIP):
            return
        await leader.still()
        await self._until(stop, self.clean(stop))
        if time.monotonic() >= self._parked_at:
            self._after = await look_again(self.database, self.names.topic(USAGE_EVENTS), self._after)
            # The next page at once; all of them again after a while.
            self._parked_at = time.monotonic() + (PARKED_EVERY_S if self._after == BEGINNING else 0)
        self._lock_timeouts = 0

    async def clean(self, stop: asyncio.Event) -> None:
        """Every dirty window once; what stays dirty does not keep the others waiting."""
        topic, group = self.names.topic(USAGE_EVENTS), self.names.group("aggregator")
        skip = 0
        while not stop.is_set():
            done = await clean_some(self.database, topic, group, skip)
            if done is None:
                return
            skip += done.again + done.differ

    async def _until(self, stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
        """Done, or given up when the process is to stop: half of it is nothing at all."""
        task = asyncio.ensure_future(work)
        try:
            await first_of(stop, work=[task])
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
            if not task.cancelled():
                task.result()
        finally:
            task.cancel()

    async def _tell(self) -> None:
        async with self.database.connection() as connection:
            dirty, parked = await dirty_store.dirty(connection), await dirty_store.parked(connection)
        metrics.DIRTY_WINDOWS.set(dirty.number)
        metrics.DIRTY_WINDOW_OLDEST.set(dirty.oldest_s)
        metrics.CORRECTIONS_PARKED.set(parked.number)
        metrics.CORRECTION_PARKED_OLDEST.set(parked.oldest_s)

    async def _after_lock_timeout(self, away: DatabaseAway) -> None:
        """As a batch does: who waits twice for the epoch lock ends the frozen process that holds it."""
        self._lock_timeouts = self._lock_timeouts + 1 if is_lock_timeout(away) else 0
        if self._lock_timeouts >= 2:
            try:
                async with self.database.connection() as connection:
                    await epoch.end_stale_holders(connection)
            except DatabaseAway as still_away:
                log.warning("corrections.stale_holders_not_ended", error=str(still_away))
