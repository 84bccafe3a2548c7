"""The catalogue as ingest knows it: read from its compacted topic, kept current, needing no database.

Ready once the topic has been read to the end it had at start. Lower versions are ignored; keys have no
tombstones, so a revoked key stays known as revoked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.contracts.messages.catalogue import (
    ApiKeyMessage,
    MeterMessage,
    OrganisationMessage,
    ProjectMessage,
    decode_catalogue,
)
from shared.contracts.topics import CATALOGUE
from shared.domain.errors import BrokerAway, Misconfigured
from shared.domain.meter import Aggregation, Meter, MeterIndex
from shared.observability import logging, names
from shared.runtime.settings import KafkaSettings

REFRESH_S = 2.0

Refresh = Callable[[], Awaitable[None]]

log = logging.get(__name__)


class CatalogueCache:
    """Projects, keys and meters by id; `version` rises with every change applied."""

    def __init__(self) -> None:
        self.projects: dict[str, ProjectMessage] = {}
        self.keys: dict[str, ApiKeyMessage] = {}
        self.meters: MeterIndex = MeterIndex({})
        self.version = 0
        self.at_end = asyncio.Event()
        self._position = 0
        self._moved = asyncio.Condition()
        self._refreshing: asyncio.Task[None] | None = None
        self._consumer: tuple[AIOKafkaConsumer, TopicPartition] | None = None
        self._organisations: dict[str, OrganisationMessage] = {}
        self._meters: dict[tuple[str, int], Meter] = {}

    def learn(self, value: bytes | None) -> None:
        """Take one record of the topic. Unknown kinds are left alone (a newer version writes them)."""
        if value is None:
            return
        try:
            message = decode_catalogue(value)
        except msgspec.MsgspecError as error:
            log.warning("catalogue.unreadable", error=str(error))
            return
        match message:
            case OrganisationMessage():
                _keep_newest(self._organisations, message.id, message)
            case ProjectMessage():
                _keep_newest(self.projects, message.id, message)
            case ApiKeyMessage():
                _keep_newest(self.keys, message.id, message)
            case MeterMessage():
                self._meters[message.id, message.version] = _meter(message)
                self.meters = MeterIndex.of(self._meters.values())
        self.version += 1

    def accepts_unknown_types(self, project_id: str) -> bool:
        """The project's setting; False for a project that is not known."""
        project = self.projects.get(project_id)
        return project is not None and project.accept_unknown_types

    async def check(self) -> str | None:
        return None if self.at_end.is_set() else "the catalogue has not been read to its end yet"

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
        """Read the topic from its beginning and keep reading. Raises BrokerAway, Misconfigured at start."""
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
            ends = await consumer.end_offsets([partition])
            self._consumer = (consumer, partition)
            while not stop.is_set():
                await self._read(consumer, partition, ends[partition])
        except KafkaError as error:
            raise Misconfigured(f"{partition.topic} cannot be read ({error}): run `khata topics apply`") from error
        finally:
            self._consumer = None
            await consumer.stop()

    async def _read(self, consumer: AIOKafkaConsumer, partition: TopicPartition, end: int) -> None:
        try:
            fetched = await consumer.getmany(partition, timeout_ms=200)
            position = await consumer.position(partition)
        except KafkaError as error:
            log.warning("catalogue.waiting", error=str(error))
            await asyncio.sleep(0.5)
            return
        for record in fetched.get(partition, ()):
            self.learn(record.value)
        async with self._moved:
            self._position = position
            self._moved.notify_all()
        if position >= end and not self.at_end.is_set():
            self.at_end.set()
            names.CATALOGUE_AT_END.set(1)
            log.info("catalogue.read", projects=len(self.projects), keys=len(self.keys))


T = TypeVar("T", OrganisationMessage, ProjectMessage, ApiKeyMessage)


def _keep_newest(known: dict[str, T], id: str, new: T) -> None:
    old = known.get(id)
    if old is None or old.version <= new.version:
        known[id] = new


def _meter(message: MeterMessage) -> Meter:
    aggregation: Aggregation = "count" if message.aggregation == "count" else "sum"
    return Meter(
        message.id,
        message.version,
        message.name,
        message.event_type,
        aggregation,
        message.value_path,
        message.unit,
        message.billable,
    )
