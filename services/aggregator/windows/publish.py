"""Publish changed windows, of one process every AGGREGATOR_PUBLISH_SECONDS:

    1  take the keys that committed batches have changed
    2  per partition of usage.windows.v1: BEGIN; nobody else sends there; read these windows as they stand; send them,
       await every ack; COMMIT            crash: the cursor stands where it stood, `heal.py` publishes them
    3  move the cursors of the partitions that are whole up to here
                                          crash before: published again, the same revisions or higher ones
What cannot be sent is given back and taken again. Batches never wait for any of it, and it rests nine times as long as
it works: where every event changes a window of its own, publishing all of them at once would halve the counting.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from services.aggregator.windows import store
from services.aggregator.windows.changed import Changed
from shared.contracts.messages.event import event_key
from shared.contracts.messages.window import WindowMessage, encode_window, window_key
from shared.domain.errors import Retryable
from shared.kafka.partitions import partition_of
from shared.kafka.producer import AckedSender
from shared.observability import logging
from shared.observability import names as metrics
from shared.postgres.outbox import OutboxMessage
from shared.postgres.pool import Database
from shared.runtime.failpoints import failpoint
from shared.runtime.pause import pause
from shared.usage.fold import WindowKey

REST = 9.0  # times the work
AT_ONCE = 2_000  # windows of one transaction: about 1 MB
ACK_S = 5.0  # less than Postgres leaves a transaction idle

for _origin in ("batch", "queue", "archive"):
    metrics.WINDOWS_PUBLISHED.labels(_origin)

log = logging.get(__name__)


@dataclass(frozen=True, slots=True)
class Sender:
    """Step 2. `topic` is the real name, `partitions` how many it has."""

    database: Database
    producer: AckedSender
    topic: str
    partitions: int

    async def send(self, keys: Sequence[WindowKey], origin: str) -> None:
        """These windows as they stand now. Raises DatabaseAway, BrokerAway: some of them may be sent."""
        by_partition: dict[int, list[WindowKey]] = {}
        for key in keys:
            partition = partition_of(event_key(key.project_id, key.subject), self.partitions)
            by_partition.setdefault(partition, []).append(key)
        for partition, mine in sorted(by_partition.items()):
            for first in range(0, len(mine), AT_ONCE):
                await self._some(partition, mine[first : first + AT_ONCE], origin)

    async def _some(self, partition: int, keys: Sequence[WindowKey], origin: str) -> None:
        async with self.database.transaction() as connection:
            await store.one_at_a_time(connection, partition)
            windows = await store.read(connection, keys)
            await failpoint("aggregator.windows.before_send")
            await self.producer.send([self._record(window, partition) for window in windows], ACK_S)
        metrics.WINDOWS_PUBLISHED.labels(origin).inc(len(windows))

    def _record(self, window: WindowMessage, partition: int) -> OutboxMessage:
        return OutboxMessage(self.topic, window_key(window), encode_window(window), partition=partition)


@dataclass(frozen=True, slots=True)
class Publisher:
    """Of one process. `run` never raises for a broker or database that is away."""

    changed: Changed
    sender: Sender
    every_s: float

    async def run(self, stop: asyncio.Event) -> None:
        worked = 0.0
        while not stop.is_set():
            # A last turn when it stops: the last batch may still be on its way.
            await pause(stop, max(self.every_s, REST * worked))
            began = time.monotonic()
            try:
                await self.turn()
            except Retryable as away:
                metrics.WINDOWS_FAILURES.inc()
                log.warning("windows.waiting", error=str(away))
            worked = time.monotonic() - began

    async def turn(self) -> None:
        """Raises DatabaseAway, BrokerAway; then all of it is still to be published."""
        taken = self.changed.take()
        try:
            await self.sender.send(taken.keys, "batch")
            await failpoint("aggregator.windows.before_mark")
            if taken.keys or taken.runs:
                async with self.sender.database.transaction() as connection:
                    await store.mark(connection, taken.runs)
        except BaseException:
            self.changed.give_back(taken)
            raise
