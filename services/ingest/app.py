"""Wire ingest: catalogue cache, producer, HTTP door, Kafka door."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass

from services.ingest import http
from services.ingest.activity import Activity
from services.ingest.addresses import Addresses, networks
from services.ingest.door_keeper import DoorKeeper, Topics, instance_of
from services.ingest.durable import DurableSender
from services.ingest.kafka_door import KafkaDoor
from services.ingest.limits import KeyLimits
from services.ingest.live import Live
from services.ingest.receipts import Receipts
from services.ingest.settings import IngestSettings
from shared.catalogue.cache import CatalogueCache
from shared.contracts.topics import (
    CATALOGUE,
    INGEST_PROCESSES,
    INGEST_RECEIPTS,
    KEYS_ACTIVITY,
    USAGE_EVENTS,
    USAGE_RAW,
    dead_letter,
)
from shared.domain.errors import BrokerAway
from shared.kafka import topics
from shared.kafka.consumer import ConsumerLoop
from shared.kafka.fast_producer import FastProducer
from shared.kafka.producer import AckedSender, Producer
from shared.observability import logging
from shared.runtime import service
from shared.runtime.http import HttpServer
from shared.runtime.pause import first_of, pause
from shared.runtime.service import Process
from shared.spool.purge import group_positions
from shared.spool.run import keep
from shared.spool.store import Spool

NEEDED = (
    USAGE_EVENTS,
    USAGE_RAW,
    dead_letter(USAGE_RAW),
    CATALOGUE,
    INGEST_RECEIPTS,
    INGEST_PROCESSES,
    KEYS_ACTIVITY,
)
CLOSE_S = 3.0  # of the 25 s a process has to stop
JOIN_S = 2.0  # to be heard by the processes that share the limits; while Kafka is away nobody is

log = logging.get(__name__)


@dataclass(frozen=True, slots=True)
class _Ingest:
    """What this process is made of."""

    settings: IngestSettings
    process: Process
    cache: CatalogueCache
    producer: FastProducer
    sender: AckedSender  # the producer, behind it the spool if there is one
    reports: Producer  # dead letters, receipts, activity: never the hot path's
    spool: Spool | None
    receipts: Receipts
    activity: Activity
    ingest_id: str


async def run(settings: IngestSettings, process: Process) -> None:
    """Open both doors once the catalogue is read; on stop close HTTP first, then the Kafka door, then drain."""
    ingest_id = f"{settings.instance}-{uuid.uuid4().hex[:8]}"
    async with AsyncExitStack() as opened:
        spool_settings = settings.spool()
        spool = await Spool.open(spool_settings, settings.instance) if spool_settings else None
        if spool is not None:
            opened.push_async_callback(spool.close)
        reports = Producer(settings, f"ingest-{ingest_id}-reports")
        opened.push_async_callback(reports.stop)
        receipts = Receipts(ingest_id, settings.names.topic(USAGE_EVENTS))
        opened.push_async_callback(receipts.finish, reports, settings.names)  # after the last ack
        producer = FastProducer(settings, f"ingest-{ingest_id}", receipts)
        opened.push_async_callback(producer.stop)
        await _start(settings, producer, away_is_fine=spool is not None)
        cache = CatalogueCache(settings.max_stale_s, settings.key_cache)
        addresses = Addresses(settings.peppers, networks(settings.trusted_proxies), settings.addresses)
        activity = Activity(cache, addresses, ingest_id)
        sender = producer if spool is None else DurableSender(producer, spool, settings.accept == "spool")
        await _serve(_Ingest(settings, process, cache, producer, sender, reports, spool, receipts, activity, ingest_id))


async def _start(settings: IngestSettings, producer: FastProducer, *, away_is_fine: bool) -> None:
    """Check topics and connect. With a spool a process may start while Kafka is away."""
    try:
        await producer.start()  # first: without an answer it is there all the same, and connects once there is one
        await topics.require(settings, NEEDED)
    except BrokerAway as away:
        if not away_is_fine:
            raise
        log.warning("ingest.started_without_kafka", error=str(away))


def _kafka_door(parts: _Ingest) -> DoorKeeper:
    settings = parts.settings
    group = settings.names.group("ingest", "door")
    handler = KafkaDoor(settings, parts.cache, parts.producer, parts.reports, parts.ingest_id, group, parts.activity)

    def over(read: Topics) -> ConsumerLoop:
        return ConsumerLoop(
            settings,
            group=group,
            instance=instance_of(settings.instance, read),
            topics=read,
            handler=handler,
            isolation="read_committed",
            commit_positions=True,
            takes_damaged=True,
        )

    return DoorKeeper(settings, parts.cache, over)


async def _serve(parts: _Ingest) -> None:
    settings, stop, cache = parts.settings, parts.process.stop, parts.cache
    door, live = _kafka_door(parts), Live(parts.ingest_id)
    _add_checks(parts, door)
    limits = KeyLimits(cache, live)
    server = HttpServer(
        http.app(http.Door(settings, cache, parts.sender, parts.ingest_id, limits, parts.activity)),
        settings.host,
        settings.http_port,
        "HTTP_PORT",
    )

    async def opened() -> str | None:
        return None if server.port else "the HTTP door is not open yet"

    parts.process.health.checks["http"] = opened
    doors_closed = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(cache.follow(settings, doors_closed), name="catalogue")
        if parts.spool is not None:
            consumers = group_positions(settings, settings.names.group("aggregator"))
            tasks.create_task(keep(parts.spool, parts.producer.send, settings.names, consumers, doors_closed))
        tasks.create_task(live.run(settings, parts.reports, doors_closed))
        tasks.create_task(parts.activity.run(parts.reports, settings.names, doors_closed))
        tasks.create_task(parts.receipts.run(parts.reports, settings.names, doors_closed))
        await first_of(cache.usable, stop, work=[following])
        await pause(live.ready, JOIN_S)
        await server.start()
        log.info("ingest.open", http_port=server.port)
        reading = tasks.create_task(_read_raw(door, cache, stop), name="Kafka door")
        await stop.wait()
        await server.stop()
        await _within(CLOSE_S, reading)
        doors_closed.set()  # nothing more is accepted: the spool drains
        await _within(CLOSE_S, following)


async def _within(seconds: float, *closing: asyncio.Task[None]) -> None:
    """Cancel what does not end: a client in a call to a Kafka that hangs. What it had is not committed."""
    _, hanging = await asyncio.wait(closing, timeout=seconds)
    for task in hanging:
        log.warning("ingest.cut_short", task=task.get_name(), after_s=seconds)
        task.cancel()


def _add_checks(parts: _Ingest, door: DoorKeeper) -> None:
    checks = parts.process.health.checks
    checks["catalogue"] = parts.cache.check
    if isinstance(parts.sender, DurableSender):
        checks["accepting"] = parts.sender.check
    else:
        checks |= {"kafka": parts.producer.check, "door": door.check}


async def _read_raw(door: DoorKeeper, cache: CatalogueCache, stop: asyncio.Event) -> None:
    """A copy of the catalogue may lack what was made since: by it no record on Kafka is refused for good."""
    await first_of(cache.at_end, stop)
    await door.run(stop)


def main() -> int:
    return service.main("ingest", IngestSettings, run)
