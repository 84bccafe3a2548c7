"""Wire watch: Faust reads keys.activity.v1 and usage.windows.v1 and keeps the states of keys and of series (stream.py);
detectors are ours (detect.py, hours.py).

One agent for each, without concurrency (with it Faust may pass over a record: faust-streaming #606), and a look at what
time alone may tell every few seconds. To build the states anew from the topics, see README.md.
"""

from __future__ import annotations

import asyncio
import logging as standard
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import KafkaError

from services.aggregator.watch.hours_watch import HoursWatch
from services.aggregator.watch.settings import WatchSettings
from services.aggregator.watch.stream import Source, Stream, make
from services.aggregator.watch.watch import Watch
from shared.contracts.topics import ANOMALIES, KEYS_ACTIVITY, USAGE_WINDOWS, WATCH_HOURS, WATCH_STATE, Topic
from shared.domain.errors import BrokerAway, KhataError, Misconfigured
from shared.kafka import topics
from shared.kafka.producer import Producer
from shared.observability import logging
from shared.observability import names as metrics
from shared.runtime import service
from shared.runtime.pause import first_of, pause
from shared.runtime.service import Process

LOOK_DEADLINE_S = 10.0

log = logging.get(__name__)


async def run(settings: WatchSettings, process: Process) -> None:
    """Read until stopped. Raises Misconfigured, BrokerAway at the start, and BrokerAway when Faust ends by itself."""
    for noisy in ("faust", "mode", "services.aggregator.watch.stream"):
        standard.getLogger(noisy).setLevel(standard.WARNING)
    await topics.require(settings, (KEYS_ACTIVITY, WATCH_STATE, USAGE_WINDOWS, WATCH_HOURS, ANOMALIES))
    activity = await _partitions(settings, KEYS_ACTIVITY, WATCH_STATE)
    windows = await _partitions(settings, USAGE_WINDOWS, WATCH_HOURS)
    async with AsyncExitStack() as opened:
        producer = Producer(settings, f"watch-{settings.instance}")
        opened.push_async_callback(producer.stop)
        await producer.start()
        folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="khata-watch-"))
        stream = make(settings, folder, activity, windows)
        watched = [
            Watched(stream.activity, Watch(stream.activity.states, producer, settings.names)),
            Watched(stream.windows, HoursWatch(stream.windows.states, producer, settings.names)),
        ]
        for one in watched:
            one.read()
        opened.push_async_callback(stream.app.stop)
        starting = asyncio.ensure_future(stream.app.start())
        process.health.checks |= {"kafka": producer.check, "stream": lambda: _check(stream, starting)}
        await first_of(process.stop, work=[starting])
        if not starting.done():  # asked to stop before it was there
            starting.cancel()
            return
        try:
            await starting
        except KafkaError as error:
            raise BrokerAway(f"Kafka at {settings.kafka_bootstrap_servers}: {error}") from error
        await _look(stream, settings.look_every_s, watched, process.stop)


async def _partitions(settings: WatchSettings, read: Topic, kept: Topic) -> int:
    """Of what is read. Raises Misconfigured unless the states have as many: a key is in both at the same place."""
    names = [settings.names.topic(topic) for topic in (read, kept)]
    records, states = [await topics.partitions_of(settings, name) for name in names]
    if records != states:
        raise Misconfigured(
            f"{names[0]} has {records} partitions and {names[1]} {states}: they must have the same number. "
            f"Delete {names[1]}, make it anew with {records}, and reset the group {settings.names.group('watch')}"
        )
    return records


@dataclass(frozen=True, slots=True)
class Watched:
    """A source and what makes findings of it."""

    source: Source
    watch: Watch | HoursWatch

    def read(self) -> None:
        async def read(events: Any) -> None:
            async for event in events.events():
                await _take(self.watch, event.message)

        name = f"read-{self.source.states.name}"
        self.source.app.agent(self.source.records, name=name, concurrency=1)(read)

    async def look(self, every_s: float) -> None:
        """Raises KafkaError, KhataError, TimeoutError."""
        mine = await self.source.unread()
        for partition in [partition for partition, unread in mine.items() if not unread]:
            self.watch.waited(partition, 2 * every_s)
        await self.watch.look(list(mine), self.source.partitions)


async def _take(watch: Watch | HoursWatch, message: Any) -> None:
    """Faust would acknowledge a record whose agent failed, and start the agent again: so nothing fails here."""
    while True:
        try:
            return await watch.take(message.value, message.partition, message.timestamp)
        except BrokerAway as away:  # a finding was not taken; the state has not changed
            log.warning("watch.waiting", error=str(away))
            await asyncio.sleep(1.0)
        except Exception as error:  # noqa: BLE001 - a bug may cost one record, never the stream
            metrics.WATCH_READ.labels("failed").inc()
            log.error("watch.failed", partition=message.partition, offset=message.offset, error=repr(error))
            return None


async def _look(stream: Stream, every_s: float, watched: Sequence[Watched], stop: asyncio.Event) -> None:
    """Every few seconds, also when nothing is read: what time alone tells. Raises BrokerAway."""
    while not await pause(stop, every_s):
        if stream.app.should_stop:
            raise BrokerAway(f"watch: Faust ended by itself: {stream.app.crash_reason!r}")
        try:
            async with asyncio.timeout(LOOK_DEADLINE_S):
                for one in watched:
                    await one.look(every_s)
        except (KafkaError, KhataError, TimeoutError) as error:
            metrics.WATCH_FAILURES.inc()
            log.warning("watch.not_looked", error=str(error) or type(error).__name__)


async def _check(stream: Stream, starting: asyncio.Future[None]) -> str | None:
    """Readiness."""
    if not starting.done():
        return "the states of keys are not recovered yet"
    return "partitions are being assigned" if stream.app.rebalancing else None


def main() -> int:
    return service.main("watch", WatchSettings, run)
