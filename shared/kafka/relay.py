"""The outbox relay of a process: one leader per topic publishes, every other process stands by.

    1  a connection of its own; try for the leadership of each topic on it
    2  see that this connection still lives (with it goes the leadership), then publish what is pending
                                  crash anywhere: the rows stay pending, the next leader publishes them
       once an hour: forget what was published more than 7 days ago
    3  `stop`: publish what is left, give the leadership up, close

The one moment in which two may publish the same rows is a leader's connection that breaks between the look in
2 and the acks; consumers dedupe, and each of the two keeps the order.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence

from shared.domain.errors import Retryable
from shared.kafka.producer import Producer
from shared.observability import logging, names
from shared.postgres import outbox
from shared.postgres.leadership import Candidate, candidate
from shared.postgres.pool import Database, Role
from shared.runtime.pause import pause
from shared.runtime.settings import DatabaseSettings

IDLE_S = 0.1  # how long a committed row may wait for a leader that has nothing to do
STANDBY_S = 0.5  # how soon a process that stands by notices that the leader is gone
BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 5.0
DRAIN_S = 10.0  # of the 25 s that a stopping process has
PURGE_EVERY_S = 3600.0
PURGE_MOST = 500  # rows of one transaction

log = logging.get(__name__)


async def relay(
    settings: DatabaseSettings,
    database: Database,
    producer: Producer,
    topics: Sequence[str],
    stop: asyncio.Event,
    *,
    role: Role,
) -> None:
    """Relay the outbox rows of `topics` (real names) until `stop`; returns after a last drain.

    Never raises for a broker or database that is away: it backs off and goes on. Raises Rejected for a row
    that Kafka will never take, which is a bug of whoever wrote it.
    """
    failures = 0
    while not stop.is_set():
        try:
            async with _lead(settings, role, topics) as leader:
                while not stop.is_set():
                    published = await leader.turn(database, producer)
                    failures = 0
                    if published == 0:
                        await pause(stop, IDLE_S if leader.led else STANDBY_S)
                await leader.drain(database, producer)
        except Retryable as error:
            failures += 1
            log.warning("relay.waiting", topics=list(topics), failures=failures, error=str(error))
            delay = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(failures, 10))
            await pause(stop, delay * random.uniform(0.5, 1))  # noqa: S311


class _Leader:
    """The relay's part of the leaderships held on one connection."""

    def __init__(self, candidate: Candidate, topics: Sequence[str]) -> None:
        self._candidate, self._topics = candidate, topics
        self.led: list[str] = []
        self._purge_at: dict[str, float] = {}

    async def turn(self, database: Database, producer: Producer) -> int:
        """Steps 1 and 2 once for every topic; returns how many rows were published."""
        published = 0
        for topic in self._topics:
            if not await self._leads(topic):
                continue
            await self._candidate.still()
            published += await outbox.relay_once(database, topic, producer.publish)
            await self._purge(database, topic)
        return published

    async def drain(self, database: Database, producer: Producer) -> None:
        """Step 3: publish what is pending now; what is not acked within the deadline waits for the next leader."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                for topic in self.led:
                    while await outbox.relay_once(database, topic, producer.publish):
                        pass

    async def _leads(self, topic: str) -> bool:
        if topic in self.led:
            return True
        leads = await self._candidate.leads(f"outbox:{topic}")
        if leads:
            self.led.append(topic)
            names.OUTBOX_LEADER.labels(topic).set(1)
            log.info("relay.leads", topic=topic)
        return leads

    async def _purge(self, database: Database, topic: str) -> None:
        """Forget what was published long ago: one small batch a turn until nothing is left, then not for an hour."""
        if time.monotonic() < self._purge_at.get(topic, 0):
            return
        async with database.transaction() as connection:
            gone = await outbox.purge(connection, topic, PURGE_MOST)
        if gone < PURGE_MOST:
            self._purge_at[topic] = time.monotonic() + PURGE_EVERY_S


@contextlib.asynccontextmanager
async def _lead(settings: DatabaseSettings, role: Role, topics: Sequence[str]) -> AsyncIterator[_Leader]:
    async with candidate(settings, role, "relay") as on_connection:
        leader = _Leader(on_connection, topics)
        try:
            yield leader
        finally:
            for topic in leader.led:
                names.OUTBOX_LEADER.labels(topic).set(0)
