"""The outbox relay of a process: one leader per topic publishes, every other process stands by.

    1  a connection of its own; try for the leadership of each topic on it
    2  see that this connection still lives (with it goes the leadership), then publish what is pending
                                  crash anywhere: the rows stay pending, the next leader publishes them
    3  `stop`: publish what is left, give the leadership up, close

The one moment in which two may publish the same rows is a leader's connection that breaks between the look in
2 and the acks; consumers dedupe, and each of the two keeps the order.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence

from shared.domain.errors import Retryable
from shared.kafka.producer import Producer
from shared.observability import logging, names
from shared.postgres import outbox
from shared.postgres.pool import Connection, Database, Role, database_errors, direct_connection
from shared.runtime.settings import DatabaseSettings

IDLE_S = 0.1  # how long a committed row may wait for a leader that has nothing to do
STANDBY_S = 0.5  # how soon a process that stands by notices that the leader is gone
BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 5.0
DRAIN_S = 10.0  # of the 25 s that a stopping process has

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
                        await _pause(stop, IDLE_S if leader.led else STANDBY_S)
                await leader.drain(database, producer)
        except Retryable as error:
            failures += 1
            log.warning("relay.waiting", topics=list(topics), failures=failures, error=str(error))
            delay = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(failures, 10))
            await _pause(stop, delay * random.uniform(0.5, 1))  # noqa: S311


class _Leader:
    """The leaderships held on one connection."""

    def __init__(self, connection: Connection, topics: Sequence[str]) -> None:
        self._connection, self._topics = connection, topics
        self.led: list[str] = []

    async def turn(self, database: Database, producer: Producer) -> int:
        """Steps 1 and 2 once for every topic; returns how many rows were published."""
        published = 0
        for topic in self._topics:
            if topic not in self.led and not await self._try(topic):
                continue
            with database_errors():
                await self._connection.execute("SELECT 1")
            published += await outbox.relay_once(database, topic, producer.publish)
        return published

    async def drain(self, database: Database, producer: Producer) -> None:
        """Step 3: publish what is pending now; what is not acked within the deadline waits for the next leader."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                for topic in self.led:
                    while await outbox.relay_once(database, topic, producer.publish):
                        pass

    async def _try(self, topic: str) -> bool:
        with database_errors():
            leads = await outbox.leadership(self._connection, topic)
        if leads:
            self.led.append(topic)
            names.OUTBOX_LEADER.labels(topic).set(1)
            log.info("relay.leads", topic=topic)
        return leads


@contextlib.asynccontextmanager
async def _lead(settings: DatabaseSettings, role: Role, topics: Sequence[str]) -> AsyncIterator[_Leader]:
    connection = await direct_connection(settings, role, "relay")
    leader = _Leader(connection, topics)
    try:
        yield leader
    finally:
        for topic in leader.led:
            names.OUTBOX_LEADER.labels(topic).set(0)
        await connection.close()  # ends the session, and with it every leadership


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
