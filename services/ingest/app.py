"""Wire ingest: catalogue cache, producer, HTTP door, Kafka door."""

from __future__ import annotations

import asyncio
import uuid

from services.ingest import http
from services.ingest.kafka_door import KafkaDoor
from services.ingest.settings import IngestSettings
from shared.catalogue.cache import CatalogueCache
from shared.contracts.topics import CATALOGUE, USAGE_EVENTS, USAGE_RAW, dead_letter
from shared.kafka import topics
from shared.kafka.consumer import ConsumerLoop
from shared.kafka.fast_producer import FastProducer
from shared.observability import logging
from shared.runtime import service
from shared.runtime.http import HttpServer
from shared.runtime.service import Process

log = logging.get(__name__)


async def run(settings: IngestSettings, process: Process) -> None:
    """Open both doors once the catalogue is read; on stop close HTTP first, then the Kafka door, then flush."""
    await topics.require(settings, (USAGE_EVENTS, USAGE_RAW, dead_letter(USAGE_RAW), CATALOGUE))
    ingest_id = f"{settings.instance}-{uuid.uuid4().hex[:8]}"
    cache, producer = CatalogueCache(), FastProducer(settings, f"ingest-{ingest_id}")
    group = settings.names.group("ingest", "door")
    door = ConsumerLoop(
        settings,
        group=group,
        instance=settings.instance,
        topics=[settings.names.topic(USAGE_RAW)],
        handler=KafkaDoor(settings, cache, producer, ingest_id, group),
        isolation="read_committed",
        commit_positions=True,
    )
    process.health.checks |= {"catalogue": cache.check, "kafka": producer.check, "door": door.check}
    await producer.start()
    server = HttpServer(
        http.app(http.Door(settings, cache, producer, ingest_id)), settings.host, settings.http_port, "HTTP_PORT"
    )
    doors_closed = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(cache.follow(settings, doors_closed))
            await _either(cache.at_end, following, process.stop)
            await server.start()
            log.info("ingest.open", http_port=server.port)
            reading = tasks.create_task(door.run(process.stop))
            await process.stop.wait()
            await server.stop()
            await reading
            doors_closed.set()
    finally:
        await producer.stop()


async def _either(ready: asyncio.Event, work: asyncio.Task[None], stop: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in (ready, stop)]
    await asyncio.wait([*waits, work], return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def main() -> int:
    return service.main("ingest", IngestSettings, run)
