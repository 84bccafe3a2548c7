"""Keep the Kafka door open over every raw topic: the common one, and those that projects have of their own.

The list comes from the catalogue. When it grows, the loop ends after the batch in flight and another begins with the
longer list; a topic that is new to the group is read from the log's beginning, so nothing waits unseen.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.ingest.settings import IngestSettings
from shared.catalogue.cache import CatalogueCache
from shared.contracts.topics import USAGE_RAW, project_raw
from shared.domain.errors import BrokerAway, KhataError
from shared.kafka import topics
from shared.kafka.consumer import ConsumerLoop
from shared.observability import logging
from shared.observability import names as metrics
from shared.runtime.pause import pause

DOOR_RETRY_S = 5.0
LOOK_EVERY_S = 1.0

Topics = tuple[str, ...]

log = logging.get(__name__)


def instance_of(instance: str, read: Topics) -> str:
    """Static group membership for one list of topics.

    A static member that comes back with another list keeps its old partitions, and nobody would be given the new
    ones: so another list is another member. The old one is replaced when its session is over.
    """
    if len(read) == 1:
        return instance
    return f"{instance}-{hashlib.sha256(' '.join(read).encode()).hexdigest()[:8]}"


@dataclass
class DoorKeeper:
    """`make` builds the loop over one list of (real) topic names."""

    settings: IngestSettings
    cache: CatalogueCache
    make: Callable[[Topics], ConsumerLoop]
    _loop: ConsumerLoop | None = field(default=None, init=False)

    async def check(self) -> str | None:
        """Readiness: as the loop says."""
        return "the Kafka door is not open yet" if self._loop is None else await self._loop.check()

    async def run(self, stop: asyncio.Event) -> None:
        """What stops the loop (a record no client can decode, a moved log) must not close the HTTP door.

        It is tried again every few seconds; until it works the metric says so and closing a month waits, naming
        the partition: nothing that was accepted there is passed over.
        """
        while not stop.is_set():
            try:
                found = await self._readable()
                self._loop = self.make(found)
                metrics.KAFKA_DOOR_OPEN.set(1)
                await self._read(self._loop, found, stop)
            except KhataError as error:
                metrics.KAFKA_DOOR_OPEN.set(0)
                log.error("ingest.kafka_door_closed", error=str(error), again_in_s=DOOR_RETRY_S)
                await pause(stop, DOOR_RETRY_S)

    async def _read(self, loop: ConsumerLoop, read: Topics, stop: asyncio.Event) -> None:
        over = asyncio.Event()
        watching = asyncio.create_task(self._watch(read, stop, over))
        try:
            await loop.run(over)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    async def _watch(self, read: Topics, stop: asyncio.Event, over: asyncio.Event) -> None:
        """Set `over` when the process stops, or when there is a topic more to read."""
        told: Topics = ()
        while not await pause(stop, LOOK_EVERY_S):
            wanted = self._wanted()
            if wanted == read:
                continue
            try:
                found = await self._readable()
            except BrokerAway as error:
                log.warning("ingest.raw_topics_unknown", error=str(error))
                continue
            if found != read:
                log.info("ingest.raw_topics", topics=found)
                break
            missing = tuple(topic for topic in wanted if topic not in found)
            if missing != told:
                told = missing
                log.warning("ingest.raw_topics_missing", topics=missing, next="run `khata topics apply`")
        over.set()

    def _wanted(self) -> Topics:
        own = sorted(project.id for project in self.cache.projects.values() if project.raw_topic)
        return tuple(self.settings.names.topic(topic) for topic in (USAGE_RAW, *map(project_raw, own)))

    async def _readable(self) -> Topics:
        """Those that exist. A topic that does not, and its dead letters, cannot be read. Raises BrokerAway."""
        wanted = self._wanted()
        if len(wanted) == 1:
            return wanted
        there: Sequence[str] = await topics.present(self.settings)
        dead_letter = self.settings.names.dead_letter
        return tuple(topic for topic in wanted if topic in there and dead_letter(topic) in there)
