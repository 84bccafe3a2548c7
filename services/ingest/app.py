"""Wire ingest: catalogue cache, producer, HTTP door, Kafka door."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack

from services.ingest import http
from services.ingest.activity import Activity
from services.ingest.addresses import Addresses, networks
from services.ingest.door_keeper import DoorKeeper, Topics, instance_of
from services.ingest.durable import DurableSender
from services.ingest.kafka_door import KafkaDoor
from services.ingest.limits import KeyLimits
from services.ingest.live import Live
from services.ingest.settings import IngestSettings
from shared.catalogue.cache import CatalogueCache
from shared.contracts.topics import (
    CATALOGUE,
    INGEST_PROCESSES,
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
from shared.runtime.pause import pause
from shared.runtime.service import Process
from shared.spool.purge import group_positions
from shared.spool.run import keep
from shared.spool.store import Spool

JOIN_S = 2.0  # to be heard by the processes that share the limits; while Kafka is away nobody is

log = logging.get(__name__)


async def run(settings: IngestSettings, process: Process) -> None:
    """Open both doors once the catalogue is read; on stop close HTTP first, then the Kafka door, then drain."""
    ingest_id = f"{settings.instance}-{uuid.uuid4().hex[:8]}"
    async with AsyncExitStack() as opened:
        spool_settings = settings.spool()
        spool = await Spool.open(spool_settings, settings.instance) if spool_settings else None
        if spool is not None:
            opened.push_async_callback(spool.close)
        producer = FastProducer(settings, f"ingest-{ingest_id}")
        opened.push_async_callback(producer.stop)
        dead_letters = Producer(settings, f"ingest-{ingest_id}-dlq")
        opened.push_async_callback(dead_letters.stop)
        await _start(settings, producer, away_is_fine=spool is not None)
        cache = CatalogueCache(settings.max_stale_s, settings.key_cache)
        addresses = Addresses(settings.peppers, networks(settings.trusted_proxies), settings.addresses)
        activity = Activity(cache, addresses, ingest_id)
        door = _kafka_door(settings, cache, producer, dead_letters, ingest_id, activity)
        sender: AckedSender = producer
        process.health.checks["catalogue"] = cache.check
        if spool is None:
            process.health.checks |= {"kafka": producer.check, "door": door.check}
        else:
            sender = durable = DurableSender(producer, spool, settings.accept == "spool")
            process.health.checks["accepting"] = durable.check
        await _serve(settings, process, cache, sender, door, spool, producer, dead_letters, activity)


async def _start(settings: IngestSettings, producer: FastProducer, *, away_is_fine: bool) -> None:
    """Check topics and connect. With a spool a process may start while Kafka is away."""
    try:
        needed = (USAGE_EVENTS, USAGE_RAW, dead_letter(USAGE_RAW), CATALOGUE, INGEST_PROCESSES, KEYS_ACTIVITY)
        await topics.require(settings, needed)
        await producer.start()
    except BrokerAway as away:
        if not away_is_fine:
            raise
        log.warning("ingest.started_without_kafka", error=str(away))


def _kafka_door(
    settings: IngestSettings,
    cache: CatalogueCache,
    producer: FastProducer,
    dead_letters: Producer,
    ingest_id: str,
    activity: Activity,
) -> DoorKeeper:
    group = settings.names.group("ingest", "door")
    handler = KafkaDoor(settings, cache, producer, dead_letters, ingest_id, group, activity)

    def over(read: Topics) -> ConsumerLoop:
        return ConsumerLoop(
            settings,
            group=group,
            instance=instance_of(settings.instance, read),
            topics=read,
            handler=handler,
            isolation="read_committed",
            commit_positions=True,
        )

    return DoorKeeper(settings, cache, over)


async def _serve(
    settings: IngestSettings,
    process: Process,
    cache: CatalogueCache,
    sender: AckedSender,
    door: DoorKeeper,
    spool: Spool | None,
    producer: FastProducer,
    advice: Producer,  # never the hot path's: what it sends can wait, and may be lost
    activity: Activity,
) -> None:
    live = Live(activity.process_id)
    server = HttpServer(
        http.app(http.Door(settings, cache, sender, activity.process_id, KeyLimits(cache, live), activity)),
        settings.host,
        settings.http_port,
        "HTTP_PORT",
    )
    doors_closed = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(cache.follow(settings, doors_closed))
        if spool is not None:
            consumers = group_positions(settings, settings.names.group("aggregator"))
            tasks.create_task(keep(spool, producer.send, settings.names, consumers, doors_closed))
        tasks.create_task(live.run(settings, advice, doors_closed))
        tasks.create_task(activity.run(advice, settings.names, doors_closed))
        await _either(cache.usable, process.stop, following)
        await pause(live.ready, JOIN_S)
        await server.start()
        log.info("ingest.open", http_port=server.port)
        reading = tasks.create_task(_read_raw(door, cache, process.stop))
        await process.stop.wait()
        await server.stop()
        await reading
        doors_closed.set()  # nothing more is accepted: the spool drains


async def _read_raw(door: DoorKeeper, cache: CatalogueCache, stop: asyncio.Event) -> None:
    """A copy of the catalogue may lack what was made since: by it no record on Kafka is refused for good."""
    await _either(cache.at_end, stop)
    await door.run(stop)


async def _either(ready: asyncio.Event, stop: asyncio.Event, *work: asyncio.Task[None]) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in (ready, stop)]
    await asyncio.wait([*waits, *work], return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def main() -> int:
    return service.main("ingest", IngestSettings, run)
