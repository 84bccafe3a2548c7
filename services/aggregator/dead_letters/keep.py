"""Keep every dead letter in Postgres: a loop of its own over all `*.dlq` topics, never in the way of counting.

    1  which dead-letter topics there are: asked of Kafka every few seconds, so a project's new one is found
    2  a batch of them and its offsets in one transaction        crash before: it is read again; a letter is one row
    3  topics that are new: the loop ends after its batch and another begins with the longer list

What stops it is told (`khata_dead_letters_read` 0) and tried again. Where retention took letters that were never read
it starts at the logs' beginnings: those that are there already stay as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psycopg

from services.aggregator.dead_letters import store
from services.aggregator.dead_letters.letter import read_letter
from shared.contracts.topics import DEAD_LETTER_SUFFIX, Names, with_dead_letters
from shared.domain.errors import BrokerAway, DatabaseAway, Fatal, KhataError, LogMoved
from shared.kafka import offsets, rewind, topics
from shared.kafka.consumer import ConsumerLoop, Limits
from shared.kafka.offsets import StoredOffset
from shared.kafka.records import Batch, Partition
from shared.observability import logging
from shared.observability import names as metrics
from shared.postgres.pool import Database
from shared.runtime.pause import pause
from shared.runtime.settings import KafkaSettings

AGAIN_S = 10.0
LOOK_EVERY_S = 5.0
COUNT_EVERY_S = 15.0
PURGE_EVERY_S = 3600.0
PURGE_MOST = 1_000  # rows of one transaction
# A letter may have 16 MiB: few at once.
LIMITS = Limits(max_records=500, wait_ms=500, partition_fetch_bytes=1024 * 1024)

Topics = tuple[str, ...]

log = logging.get(__name__)


@dataclass
class DeadLetters:
    """Handler of the consumer loop for every dead-letter topic."""

    settings: KafkaSettings
    database: Database
    group: str

    async def stored(self, partitions: Sequence[Partition]) -> Mapping[Partition, StoredOffset | None]:
        async with self.database.connection() as connection:
            return await offsets.stored(connection, self.group, partitions)

    async def apply(self, batch: Batch) -> None:
        """Raises DatabaseAway, Fenced, and Fatal for what Postgres does not take (which ends this loop only)."""
        letters = [read_letter(record, self.settings.names) for record in batch.records]
        try:
            async with self.database.transaction() as connection:
                await offsets.move(connection, self.group, batch.ranges)
                stored = await store.add(connection, letters)
        except psycopg.DataError as error:
            raise Fatal(f"a dead letter cannot be stored: {error}") from error
        metrics.DEAD_LETTERS_STORED.inc(stored)

    async def start_again(self, read: Topics) -> None:
        """Go on at each log's beginning. Raises BrokerAway, DatabaseAway."""
        bounds = await rewind.log_bounds(self.settings, read)
        async with self.database.transaction() as connection:
            for partition, (start, _) in sorted(bounds.items()):
                await rewind.store(connection, self.group, partition, start)


@dataclass
class Keeper:
    """Runs the loop; `make` builds it over one list of (real) topic names."""

    letters: DeadLetters
    make: Callable[[Topics], ConsumerLoop]
    look_every_s: float = LOOK_EVERY_S

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, whatever happens to the loop."""
        while not stop.is_set():
            read: Topics = ()
            try:
                read = await readable(self.letters.settings)
                metrics.DEAD_LETTERS_READ.set(1)
                await (self._read(read, stop) if read else pause(stop, self.look_every_s))
            except KhataError as error:
                metrics.DEAD_LETTERS_READ.set(0)
                log.error("aggregator.dead_letters_stopped", error=str(error), again_in_s=AGAIN_S)
                if isinstance(error, LogMoved):
                    await self._start_again(read)
                await pause(stop, AGAIN_S)

    async def _read(self, read: Topics, stop: asyncio.Event) -> None:
        over = asyncio.Event()
        watching = asyncio.create_task(self._watch(read, stop, over))
        try:
            await self.make(read).run(over)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    async def _watch(self, read: Topics, stop: asyncio.Event, over: asyncio.Event) -> None:
        """Set `over` when the process stops, or when there is a topic more to read."""
        try:
            while not await pause(stop, self.look_every_s):
                try:
                    new = set(await readable(self.letters.settings)) - set(read)
                except BrokerAway as away:
                    log.warning("aggregator.dead_letter_topics_unknown", error=str(away))
                    continue
                if new:
                    log.info("aggregator.dead_letter_topics", new=sorted(new))
                    return
        finally:
            over.set()  # also when looking fails: a loop that nobody can end would hold the process

    async def _start_again(self, read: Topics) -> None:
        try:
            await self.letters.start_again(read)
        except (BrokerAway, DatabaseAway) as away:
            log.warning("aggregator.dead_letters_wait", error=str(away))


async def readable(settings: KafkaSettings) -> Topics:
    """Every dead-letter topic of this installation that exists, by its real name. Raises BrokerAway."""
    return tuple(sorted(name for name in await topics.present(settings) if is_ours(name, settings.names)))


def is_ours(name: str, names: Names) -> bool:
    """Whether a topic is the dead-letter twin of a listed topic or of a project's raw topic."""
    if not name.endswith(DEAD_LETTER_SUFFIX):
        return False
    listed = {names.topic(topic) for topic in with_dead_letters()}
    return name in listed or names.raw_project(name.removesuffix(DEAD_LETTER_SUFFIX)) is not None


def instance_of(instance: str, read: Topics) -> str:
    """Static membership for one list of topics: who came back with another would keep its old partitions."""
    return f"{instance}-{hashlib.sha256(' '.join(read).encode()).hexdigest()[:8]}"


def label_of(topic: str, names: Names) -> str:
    """How metrics name a topic: without prefix, and all projects' raw topics as one."""
    return "usage.raw.<project>.v1" if names.raw_project(topic) else topic.removeprefix(names.prefix)


async def count(settings: KafkaSettings, database: Database, stop: asyncio.Event) -> None:
    """Tell what is open, and since when, until `stop`."""
    told: set[tuple[str, str]] = set()
    while not stop.is_set():
        try:
            async with database.connection() as connection:
                found = await store.open_by_code(connection)
        except DatabaseAway as away:
            log.warning("aggregator.dead_letters_not_counted", error=str(away))
        else:
            told = tell(found, settings.names, told)
        await pause(stop, COUNT_EVERY_S)


def tell(
    found: Sequence[tuple[str, str, int, float]], names: Names, told: set[tuple[str, str]]
) -> set[tuple[str, str]]:
    """Set the gauges; what was told before and is gone becomes 0. Returns what is told now."""
    sums: dict[tuple[str, str], tuple[int, float]] = {}
    for topic, code, letters, age_s in found:
        label = (label_of(topic, names), code)
        before = sums.get(label, (0, 0.0))
        sums[label] = (before[0] + letters, max(before[1], age_s))
    for label in told | sums.keys():
        letters, age_s = sums.get(label, (0, 0.0))
        metrics.DEAD_LETTERS_OPEN.labels(*label).set(letters)
        metrics.DEAD_LETTER_OLDEST.labels(*label).set(age_s)
    return set(sums)


async def purge(database: Database, stop: asyncio.Event) -> None:
    """Once an hour until `stop`; how old is too old is the database's (0013_dead_letters.sql)."""
    while not stop.is_set():
        gone = PURGE_MOST
        try:
            while gone == PURGE_MOST and not stop.is_set():
                async with database.transaction() as connection:
                    gone = await store.purge(connection, PURGE_MOST)
        except DatabaseAway as away:
            log.warning("aggregator.purge_waits", error=str(away))
        await pause(stop, PURGE_EVERY_S)
