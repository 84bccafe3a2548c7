"""Which projects have a raw topic of their own: from the tables, or from `catalogue.v1` where there is no database."""

from __future__ import annotations

import asyncio

from shared.catalogue.cache import CatalogueCache
from shared.contracts.topics import CATALOGUE
from shared.domain.errors import BrokerAway
from shared.kafka import topics
from shared.postgres.pool import Connection
from shared.runtime.settings import KafkaSettings

READ_S = 15.0


async def stored(connection: Connection) -> list[str]:
    """Project ids, by the tables."""
    rows = await (await connection.execute("SELECT id FROM catalogue.project WHERE raw_topic ORDER BY id")).fetchall()
    return [row[0] for row in rows]


async def published(settings: KafkaSettings) -> list[str]:
    """Project ids, by the catalogue topic; none while there is no such topic. Raises BrokerAway."""
    if settings.names.topic(CATALOGUE) not in await topics.present(settings):
        return []
    cache, stop = CatalogueCache(), asyncio.Event()
    following = asyncio.create_task(cache.follow(settings, stop))
    at_end = asyncio.create_task(cache.at_end.wait())
    try:
        await asyncio.wait([following, at_end], timeout=READ_S, return_when=asyncio.FIRST_COMPLETED)
        if not cache.at_end.is_set():
            stop.set()
            await following
            raise BrokerAway(f"{settings.names.topic(CATALOGUE)} could not be read within {READ_S:g} s")
    finally:
        at_end.cancel()
        stop.set()
        await following
    return sorted(project.id for project in cache.projects.values() if project.raw_topic)
