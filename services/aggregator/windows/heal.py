"""Publish what no living process will: windows whose batch was committed by one that died, or gave up its memory.

One process of all (leadership `windows`). A cursor for each partition of usage.events.v1 says up to where the windows
of its batches are published; the archive says what came after it. So nothing is written in the batch, `usage.window`
needs no index by time of change, which would end its HOT updates, and what is read is only what is missing:

    1  look: what was applied at the look before, and still is not published, has nobody who would
    2  segment by segment: the windows that it may have changed are published as they stand, then the cursor is moved
                                          crash: from the cursor on again
    3  what the archive cannot tell (corrections, repairs, back-fills) stands in the queue `usage.changed_window`,
       written in the same transaction; published, then forgotten          crash between: published again
It rests nine times as long as it works: counting goes first.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import msgspec

from services.aggregator.windows import store
from services.aggregator.windows.changed import Run
from services.aggregator.windows.publish import AT_ONCE, REST, Sender
from services.aggregator.windows.store import Archived
from shared.contracts.messages.event import decode_content
from shared.contracts.topics import USAGE_EVENTS, Names
from shared.domain.errors import Fatal, Rejected, Retryable
from shared.kafka.records import Partition
from shared.observability import logging
from shared.observability import names as metrics
from shared.postgres.leadership import candidate
from shared.postgres.pool import Database, Role
from shared.runtime.pause import pause
from shared.runtime.settings import DatabaseSettings
from shared.usage.backfill import Views, read_views
from shared.usage.fold import WindowKey, fold
from shared.usage.metering import read_metering
from shared.usage.segment import Disposition, unpack

ROLE: Role = "khata_aggregator"
LEADERSHIP = "windows"
# Times the turns. A living publisher has moved its cursor by then, however much it had: 5 s for all that it can hold,
# and nine times that of rest.
LOOKS_APART = 25.0
IN_WINDOWS = (ord(Disposition.COUNTED.value), ord(Disposition.TEST.value))

log = logging.get(__name__)


@dataclass
class Healer:
    """Of one process. `run` never raises for a broker or database that is away."""

    settings: DatabaseSettings
    names: Names
    sender: Sender
    every_s: float
    _applied: dict[Partition, int] = field(default_factory=dict, init=False)
    _look_at: float = field(default=0.0, init=False)

    @property
    def database(self) -> Database:
        return self.sender.database

    @property
    def topic(self) -> str:
        return self.names.topic(USAGE_EVENTS)

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                async with candidate(self.settings, ROLE, "windows") as leader:
                    while not await pause(stop, self.every_s):
                        overdue = await self.look()
                        if await leader.leads(LEADERSHIP):
                            await leader.still()
                            await self.drain()
                            await self.heal(overdue, stop)
            except Retryable as away:
                metrics.WINDOWS_FAILURES.inc()
                log.warning("windows.healing_waits", error=str(away))
                await pause(stop, self.every_s)

    async def look(self) -> dict[Partition, Run]:
        """Step 1; empty when the last look was just now. Raises DatabaseAway."""
        if time.monotonic() < self._look_at:
            return {}
        self._look_at = time.monotonic() + LOOKS_APART * self.every_s
        async with self.database.connection() as connection:
            await store.begin(connection, self.names.group("aggregator"), self.topic)
            found = await store.standing(connection, self.names.group("aggregator"), self.topic)
        waiting = [one.waiting_s for one in found.values() if one.published < one.applied]
        metrics.WINDOWS_WAITING.set(max(waiting, default=0.0))
        overdue = {
            partition: Run(one.published, self._applied[partition])
            for partition, one in found.items()
            if one.published < self._applied.get(partition, 0)
        }
        self._applied = {partition: one.applied for partition, one in found.items()}
        return overdue

    async def drain(self) -> None:
        """Step 3. Raises DatabaseAway, BrokerAway."""
        while True:
            async with self.database.connection() as connection:
                entries = await store.queued(connection, AT_ONCE)
            if not entries:
                return
            await self.sender.send(list(dict.fromkeys(entries.values())), "queue")
            async with self.database.transaction() as connection:
                await store.forget(connection, list(entries))
            if len(entries) < AT_ONCE:
                return

    async def heal(self, overdue: dict[Partition, Run], stop: asyncio.Event) -> None:
        """Step 2. Raises DatabaseAway, BrokerAway."""
        for partition, run in sorted(overdue.items()):
            async with self.database.connection() as connection:
                views = await read_views(connection, await read_metering(connection))
            log.info("windows.healing", partition=partition.partition, start=run.start, end=run.end)
            start = run.start
            while start < run.end and not stop.is_set():
                began = time.monotonic()
                start = await self._segment(partition, Run(start, run.end), views)
                await pause(stop, REST * (time.monotonic() - began))

    async def _segment(self, partition: Partition, run: Run, views: Views) -> int:
        """Publish what the next segment may have changed; where to go on."""
        async with self.database.connection() as connection:
            segment = await store.next_segment(connection, partition, run.start, run.end)
        end = run.end
        if segment is not None:
            end = segment.last_offset + 1
            await self.sender.send(await asyncio.to_thread(touched, partition, segment, views), "archive")
        async with self.database.transaction() as connection:
            await store.mark(connection, {partition: Run(run.start, end)})
        return end


def touched(partition: Partition, segment: Archived, views: Views) -> list[WindowKey]:
    """Windows that the records of a segment are in, under today's meters: at least those that its batch has changed."""
    events = []
    view = views.at(partition.topic, partition.partition, segment.first_offset, segment.stored_at)
    try:
        records = unpack(partition.topic, partition.partition, segment.payload, segment.sha256)
    except Fatal as damaged:  # reconciliation tells of it; nothing can be said of its windows
        log.error("windows.segment_unreadable", partition=partition.partition, error=str(damaged))
        return []
    for record, letter in zip(records, segment.dispositions, strict=True):
        if letter in IN_WINDOWS:
            try:
                events.append(view.counted(decode_content(record.value or b"")))
            except (Rejected, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                log.warning("windows.event_unreadable", offset=record.offset, error=str(error))
    return list(fold(events))
