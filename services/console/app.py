"""Wire the console: catalogue cache for keys, a reading database role, one HTTP server."""

from __future__ import annotations

import asyncio

from services.console import http
from services.console.settings import ConsoleSettings
from shared.catalogue.cache import CatalogueCache
from shared.contracts.topics import CATALOGUE
from shared.kafka import topics
from shared.observability import logging
from shared.postgres.current import current_database
from shared.runtime import service
from shared.runtime.http import HttpServer
from shared.runtime.pause import first_of
from shared.runtime.service import Process

log = logging.get(__name__)


async def run(settings: ConsoleSettings, process: Process) -> None:
    """Open once the catalogue is read; nothing here can be lost by stopping."""
    await topics.require(settings, (CATALOGUE,))
    async with current_database(settings, "khata_reader", "console") as database:
        cache = CatalogueCache(settings.max_stale_s)
        process.health.checks |= {"database": database.check, "catalogue": cache.check}
        door = http.Door(settings.names, settings.peppers, cache, database)
        server = HttpServer(http.app(door), settings.host, settings.http_port, "HTTP_PORT")
        closed = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(cache.follow(settings, closed))
            await first_of(cache.usable, process.stop, work=[following])
            await server.start()
            log.info("console.open", http_port=server.port)
            await process.stop.wait()
            await server.stop()
            closed.set()


def main() -> int:
    return service.main("console", ConsoleSettings, run)
