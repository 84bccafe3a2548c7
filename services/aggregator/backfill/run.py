"""Count old events for new meters, beside the batches. One process of all (leadership `backfill`).

Slice by slice, of each partition below the cut:

    1  read the next segments; what the new meters say of their events, as they were sent
    2  BEGIN; epoch lock shared; move the progress from where it was read, or somebody else has been there
    3  lock the projects: whoever corrects an event now waits; apply what corrections have made of the events
    4  windows; entered to be published; numbers; the back-fill is finished with its last slice
    5  COMMIT                          crash before: nothing happened; after: the next slice is next
It rests twice as long as it works: counting goes first. A segment that cannot be read stops it, and says so.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass

from services.aggregator.backfill import store
from services.aggregator.backfill.slice import Slice, read
from services.aggregator.backfill.store import Stretch
from services.aggregator.corrections import store as corrections
from services.aggregator.store import merge_windows
from services.aggregator.windows import store as windows
from shared.domain.errors import DatabaseAway, Fatal
from shared.domain.meter import Meter
from shared.observability import logging
from shared.observability import names as metrics
from shared.postgres import epoch
from shared.postgres.leadership import candidate
from shared.postgres.pool import Connection, Database, Role
from shared.runtime.failpoints import failpoint
from shared.runtime.pause import pause
from shared.runtime.settings import DatabaseSettings
from shared.usage.backfill import MeterKey, View, key_of, read_backfills
from shared.usage.fold import fold
from shared.usage.metering import read_metering

ROLE: Role = "khata_aggregator"
LEADERSHIP = "backfill"
LOOK_EVERY_S = 2.0
AGAIN_S = 30.0  # after what only a person can mend
REST = 2.0  # times the work

log = logging.get(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """One back-fill under the catalogue as it is. `view` knows its meters alone as such that came later."""

    meters: tuple[Meter, ...]
    view: View


@dataclass
class Backfiller:
    """Of one process. `run` never raises for a database that is away or an archive that is damaged."""

    settings: DatabaseSettings
    database: Database
    look_every_s: float = LOOK_EVERY_S
    rest: float = REST

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            wait_s = self.look_every_s
            try:
                async with candidate(self.settings, ROLE, "backfill") as leader:
                    while not await pause(stop, self.look_every_s):
                        if await leader.leads(LEADERSHIP):
                            await leader.still()
                            await self.turn(stop)
            except DatabaseAway as away:
                log.warning("backfill.waits", error=str(away))
            except Fatal as damaged:
                metrics.BACKFILL_FAILURES.inc()
                log.error("backfill.stopped", error=str(damaged), again_in_s=AGAIN_S)
                wait_s = AGAIN_S
            finally:
                metrics.BACKFILL_LEFT.set(0)  # another process may do it now
            await pause(stop, wait_s)

    async def turn(self, stop: asyncio.Event) -> None:
        """All that is left. Raises DatabaseAway, Fatal."""
        works: dict[int, Work] = {}
        while not stop.is_set():
            async with self.database.connection() as connection:
                left = await store.stretches(connection)
            metrics.BACKFILL_LEFT.set(sum(one.end_offset - one.next_offset for one in left))
            if not left:
                return
            for one in left:
                if stop.is_set():
                    return
                began = time.monotonic()
                if one.cut_id not in works:
                    works[one.cut_id] = await self._work(one.cut_id)
                await self._slice(one, works[one.cut_id])
                await pause(stop, self.rest * (time.monotonic() - began))

    async def _work(self, cut_id: int) -> Work:
        async with self.database.connection() as connection:
            metering = await read_metering(connection)
            keys = next(one.meters for one in await read_backfills(connection) if one.cut_id == cut_id)
        all_meters = [meter for found in metering.meters.by_type.values() for meter in found]
        mine = tuple(meter for meter in all_meters if key_of(meter) in keys)
        return Work(mine, View(metering, mine, keys))

    async def _slice(self, left: Stretch, work: Work) -> None:
        async with self.database.connection() as connection:
            rows, after = await store.segments(connection, left)
        found = await asyncio.to_thread(read, rows, work.view, work.meters)
        async with self.database.transaction() as connection:
            await epoch.enter_shared(connection)
            if not await store.move(connection, left, after):
                return
            events: Counter[MeterKey] = Counter()
            if found.events:
                events = await self._count(connection, found, work)
            await store.count(connection, left.cut_id, events, found.refused)
            finished = await store.finish(connection, left.cut_id)
            await failpoint("aggregator.backfill.before_commit")
        await failpoint("aggregator.backfill.after_commit")
        metrics.BACKFILL_RECORDS.inc(found.records)
        if finished:
            log.info("backfill.finished", meters=[f"{id}@{version}" for id, version in sorted(work.view.filled)])

    async def _count(self, connection: Connection, found: Slice, work: Work) -> Counter[MeterKey]:
        """Steps 3 and 4."""
        await corrections.lock_projects(connection, found.projects)
        applied = await corrections.applied(connection, found.keys)
        standing = found.as_they_stand(applied, work.view)
        deltas = fold(standing)
        await merge_windows(connection, deltas)
        await windows.queue(connection, list(deltas))
        return Counter(key_of(reading.meter) for event in standing for reading in event.readings)
