"""The limit of the HTTP door: the same server and the same door, and nothing behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.ingest import http
from services.ingest.settings import IngestSettings
from shared.catalogue.cache import CatalogueCache
from shared.kafka.producer import ACK_DEADLINE_S
from shared.postgres.outbox import OutboxMessage
from shared.runtime import service
from shared.runtime.http import HttpServer
from shared.runtime.service import Process


class Nowhere:
    """Says that it has everything and has nothing."""

    async def send(
        self, messages: Sequence[OutboxMessage], deadline_s: float = ACK_DEADLINE_S
    ) -> list[tuple[int, int]]:
        return [(0, 0)] * len(messages)


async def run(settings: IngestSettings, process: Process) -> None:
    cache = CatalogueCache()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(cache.follow(settings, process.stop))
        await cache.usable.wait()
        door = http.Door(settings, cache, Nowhere(), "limit")
        server = HttpServer(http.app(door), settings.host, settings.http_port, "HTTP_PORT")
        await server.start()
        process.health.checks["catalogue"] = cache.check
        await process.stop.wait()
        await server.stop()


if __name__ == "__main__":
    raise SystemExit(service.main("limit", IngestSettings, run))
