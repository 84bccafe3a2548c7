"""The catalogue as ingest knows it: read from its compacted topic, kept current, needing no database.

`at_end` once the topic has been read to the end it had; `usable` then or once a young enough copy was found on disk
(cache_file.py). About once a second Kafka is asked for the topic's end: `stale_s` is how long ago the cache was last
known to hold everything below it, and after `max_stale_s` nobody is let in on its word. Lower versions are ignored;
keys have no tombstones, so a revoked key stays known as revoked.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TypeVar, cast
from zoneinfo import ZoneInfo

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from msgspec import UNSET

from shared.catalogue import cache_file
from shared.contracts.messages.catalogue import (
    ApiKeyMessage,
    CatalogueMessage,
    MeterMessage,
    OrganisationMessage,
    ProjectMessage,
    decode_catalogue,
)
from shared.contracts.topics import CATALOGUE
from shared.domain.definition import filters_of, group_by_of
from shared.domain.errors import BrokerAway, Misconfigured
from shared.domain.meter import Aggregation, Late, Meter, MeterIndex
from shared.observability import logging, names
from shared.runtime.pause import pause
from shared.runtime.settings import KafkaSettings

REFRESH_S = 2.0
MAX_STALE_S = 3600.0
PROBE_EVERY_S = 1.0
PROBE_S = 2.0  # a broker that needs longer to tell an offset is as good as away
RETRY_S = 1.0
AHEAD_S = 60.0  # a copy from further in the future was written under another clock

KEEP_CHANGED_S = 2.0  # a changed catalogue is on disk that soon
KEEP_AS_OF_S = 30.0  # an unchanged one: its as-of time moves on; what a restart loses of `max_stale_s`

Refresh = Callable[[], Awaitable[None]]

log = logging.get(__name__)


@dataclass(slots=True)
class _Known:
    """What was learned from one reading of the topic; `version` is the offset it reached."""

    organisations: dict[str, OrganisationMessage] = field(default_factory=dict)
    projects: dict[str, ProjectMessage] = field(default_factory=dict)
    keys: dict[str, ApiKeyMessage] = field(default_factory=dict)
    meters: dict[tuple[str, int], MeterMessage] = field(default_factory=dict)
    version: int = 0

    def learn(self, message: CatalogueMessage) -> None:
        match message:
            case OrganisationMessage():
                _keep_newest(self.organisations, message.id, message)
            case ProjectMessage():
                _keep_newest(self.projects, message.id, message)
            case ApiKeyMessage():
                _keep_newest(self.keys, message.id, message)
            case MeterMessage():
                self.meters[message.id, message.version] = message

    def messages(self) -> list[CatalogueMessage]:
        return [*self.organisations.values(), *self.projects.values(), *self.keys.values(), *self.meters.values()]


class CatalogueCache:
    """Organisations, projects, keys and meters by id; `version` is the offset of catalogue.v1 read so far."""

    def __init__(
        self,
        max_stale_s: float = MAX_STALE_S,
        file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.at_end, self.usable = asyncio.Event(), asyncio.Event()
        self.max_stale_s = max_stale_s
        self._file, self._clock = file, clock
        self._learning = _Known()
        self._show(self._learning)
        self._fresh = -math.inf  # by the clock: last known to hold everything
        self._position = 0
        self._moved = asyncio.Condition()
        self._refreshing: asyncio.Task[None] | None = None
        self._consumer: tuple[AIOKafkaConsumer, TopicPartition] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._kept_version, self._kept_at = -1, -math.inf

    def learn(self, value: bytes | None, offset: int | None = None) -> None:
        """Take one record of the topic. Unknown kinds are left alone (a newer version writes them)."""
        known = self._learning
        if value is not None:
            try:
                message = decode_catalogue(value)
            except msgspec.MsgspecError as error:
                log.warning("catalogue.unreadable", error=str(error))
                return
            known.learn(message)
            if known is self._shown and isinstance(message, MeterMessage):
                self.meters = _index(known)
        known.version = known.version + 1 if offset is None else offset + 1
        if known is self._shown:
            self.version = known.version

    def zone_of(self, project_id: str) -> ZoneInfo:
        """The time zone of the project's organisation; UTC while it is not known."""
        project = self.projects.get(project_id)
        organisation = self.organisations.get(project.organisation_id) if project else None
        return ZoneInfo(organisation.time_zone if organisation else "UTC")

    def accepts_unknown_types(self, project_id: str) -> bool:
        """The project's setting; False for a project that is not known."""
        project = self.projects.get(project_id)
        return project is not None and project.accept_unknown_types

    def seen_end(self, at: float | None = None) -> None:
        """Everything that was in the topic `at` (by the clock; now) has been learned."""
        self._fresh = max(self._fresh, self._clock() if at is None else at)
        names.CATALOGUE_FRESH_AT.set(time.time() - self.stale_s())
        if not self.at_end.is_set():
            self._show(self._learning)
            self.at_end.set()
            self.usable.set()
            names.CATALOGUE_AT_END.set(1)
            log.info("catalogue.read", projects=len(self.projects), keys=len(self.keys))

    def stale_s(self) -> float:
        """Seconds since the cache was last known to hold everything; infinite before the first time."""
        return self._clock() - self._fresh

    def require_usable(self) -> None:
        """Raises BrokerAway when too much may have happened (a key revoked) since the catalogue was current."""
        if self._clock() - self._fresh > self.max_stale_s:
            raise BrokerAway(self._unusable())

    async def check(self) -> str | None:
        return None if self.stale_s() <= self.max_stale_s else self._unusable()

    def _unusable(self) -> str:
        if not self.usable.is_set():
            return "the catalogue has not been read to its end yet"
        return f"the catalogue is {self.stale_s():.0f} s old; INGEST_MAX_STALE_S allows {self.max_stale_s:g} s"

    async def refresh(self) -> None:
        """Wait until everything that is in the topic now has been read (at most 2 s; callers share one wait).

        For whoever meets an id it does not know: `khata catalogue apply` may have made it a moment ago.
        """
        if self._refreshing is not None and not self._refreshing.done():
            await asyncio.shield(self._refreshing)  # its end may have been read before what we look for was written
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._read_to_end())
        await asyncio.shield(self._refreshing)

    def refresh_once(self) -> Refresh:
        """A `refresh` that waits the first time only: for one batch, however many unknown ids it holds."""
        done = False

        async def refresh() -> None:
            nonlocal done
            if not done:
                done = True
                await self.refresh()

        return refresh

    async def _read_to_end(self) -> None:
        if self._consumer is None:
            return
        consumer, partition = self._consumer
        try:
            async with asyncio.timeout(REFRESH_S), self._moved:
                end = (await consumer.end_offsets([partition]))[partition]
                await self._moved.wait_for(lambda: self._position >= end)
        except (KafkaError, TimeoutError) as error:
            log.warning("catalogue.refresh", error=str(error) or type(error).__name__)

    async def follow(self, settings: KafkaSettings, stop: asyncio.Event) -> None:
        """Read the topic from its beginning and keep reading until `stop`.

        Raises BrokerAway, Misconfigured at start, unless a kept copy is there to work with meanwhile.
        """
        self.load(settings.names.topic(CATALOGUE))
        while not stop.is_set():
            try:
                await self._follow(settings, stop)
            except (BrokerAway, Misconfigured) as error:
                if not self.usable.is_set():
                    raise
                log.warning("catalogue.away", error=str(error), stale_s=round(self.stale_s()))
                await pause(stop, RETRY_S)

    async def _follow(self, settings: KafkaSettings, stop: asyncio.Event) -> None:
        partition = TopicPartition(settings.names.topic(CATALOGUE), 0)
        consumer = AIOKafkaConsumer(**settings.client_arguments(), enable_auto_commit=False, fetch_max_wait_ms=200)
        try:
            await consumer.start()
        except KafkaError as error:
            await consumer.stop()
            raise BrokerAway(f"Kafka at {settings.kafka_bootstrap_servers}: {error}") from error
        try:
            consumer.assign([partition])
            await consumer.seek_to_beginning(partition)
            asked_at = self._clock()
            wanted: tuple[int, float] | None = ((await consumer.end_offsets([partition]))[partition], asked_at)
            self._consumer = (consumer, partition)
            while not stop.is_set():
                await self._read(consumer, partition)
                if wanted is None and self._clock() - asked_at >= PROBE_EVERY_S:
                    asked_at = self._clock()
                    wanted = await _end_now(consumer, partition, asked_at)
                if wanted is not None and self._position >= wanted[0]:
                    self.seen_end(wanted[1])
                    wanted = None
                self._keep(partition.topic)
        except KafkaError as error:
            raise Misconfigured(f"{partition.topic} cannot be read ({error}): run `khata topics apply`") from error
        finally:
            self._consumer = None
            await consumer.stop()
            if self._keeping is not None:
                await self._keeping

    async def _read(self, consumer: AIOKafkaConsumer, partition: TopicPartition) -> None:
        try:
            fetched = await consumer.getmany(partition, timeout_ms=200)
            position = await consumer.position(partition)
        except KafkaError as error:
            log.warning("catalogue.waiting", error=str(error))
            await asyncio.sleep(0.5)
            return
        for record in fetched.get(partition, ()):
            self.learn(record.value, record.offset)
        async with self._moved:
            self._position = position
            self._moved.notify_all()

    def _show(self, known: _Known) -> None:
        self._shown = known
        self.organisations, self.projects, self.keys = known.organisations, known.projects, known.keys
        self.meters, self.version = _index(known), known.version

    def load(self, topic: str) -> None:
        """Work with the copy on disk until the topic has been read; then what only the copy knew is forgotten."""
        kept = cache_file.read(self._file, topic) if self._file else None
        if kept is None:
            return
        age_s = (datetime.now(UTC) - kept.as_of).total_seconds()
        if not -AHEAD_S <= age_s <= self.max_stale_s:
            log.warning("catalogue.file_ignored", file=str(self._file), why="too old, or from the future", age_s=age_s)
            return
        copy = _Known(version=kept.version)
        for message in kept.messages:
            copy.learn(message)
        self._show(copy)
        self._fresh = self._clock() - max(age_s, 0.0)
        self.usable.set()
        log.info("catalogue.from_file", age_s=round(age_s), projects=len(self.projects), keys=len(self.keys))

    def _keep(self, topic: str) -> None:
        """Start writing the copy where it is due; at most one write at a time, beside the reading."""
        if self._file is None or not self.at_end.is_set() or (self._keeping and not self._keeping.done()):
            return
        due_s = KEEP_CHANGED_S if self._kept_version != self.version else KEEP_AS_OF_S
        if self._clock() - self._kept_at < due_s:
            return
        self._kept_version, self._kept_at = self.version, self._clock()
        as_of = datetime.now(UTC) - timedelta(seconds=self.stale_s())
        kept = cache_file.Kept(topic, as_of, self.version, self._shown.messages())
        self._keeping = asyncio.create_task(_write(self._file, kept))


async def _write(file: Path, kept: cache_file.Kept) -> None:
    try:
        await asyncio.to_thread(cache_file.write, file, kept)
    except OSError as error:
        log.warning("catalogue.file_not_written", file=str(file), error=str(error))


async def _end_now(consumer: AIOKafkaConsumer, partition: TopicPartition, asked_at: float) -> tuple[int, float] | None:
    """The topic's end and when it was asked for; None while Kafka does not tell."""
    try:
        async with asyncio.timeout(PROBE_S):
            return (await consumer.end_offsets([partition]))[partition], asked_at
    except (KafkaError, TimeoutError) as error:
        log.warning("catalogue.waiting", error=str(error) or type(error).__name__)
        return None


T = TypeVar("T", OrganisationMessage, ProjectMessage, ApiKeyMessage)


def _keep_newest(known: dict[str, T], id: str, new: T) -> None:
    old = known.get(id)
    if old is None or old.version <= new.version:
        known[id] = new


def _index(known: _Known) -> MeterIndex:
    return MeterIndex.of([_meter(message) for message in known.meters.values()])


def _meter(message: MeterMessage) -> Meter:
    return Meter(
        id=message.id,
        version=message.version,
        name=message.name,
        event_type=message.event_type,
        aggregation=cast(Aggregation, message.aggregation),
        value_path=message.value_path,
        unit=message.unit,
        billable=message.billable,
        clamp_min=None if message.clamp_min is UNSET else Decimal(message.clamp_min),
        clamp_max=None if message.clamp_max is UNSET else Decimal(message.clamp_max),
        filters=() if message.filters is UNSET else filters_of(message.filters),
        group_by=() if message.group_by is UNSET else group_by_of(message.group_by),
        late="next_invoice" if message.late is UNSET else cast(Late, message.late),
        effective_from=None if message.effective_from is UNSET else message.effective_from,
    )
