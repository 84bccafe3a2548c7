"""Forget what no repetition can reach any more: deliveries after 100 days, carried out intents after 400.

How old is old enough is the database's (0002_messaging.sql): no role deletes anything younger. Two processes at
once pass over what the other holds.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from services.payments.collect import CREATE_LINK
from shared.domain.errors import DatabaseAway
from shared.observability import logging
from shared.postgres import inbox, intents
from shared.postgres.pool import Database
from shared.runtime.pause import pause

EVERY_S = 3600.0
MOST = 500  # rows of one transaction

log = logging.get(__name__)


@dataclass(frozen=True, slots=True)
class Purge:
    """`consumer` is the group whose inbox it is."""

    database: Database
    consumer: str

    async def once(self) -> int:
        """Everything that is old enough, in small transactions; returns how many rows went. Raises DatabaseAway."""
        gone = 0
        while True:
            async with self.database.transaction() as connection:
                deliveries = await inbox.purge(connection, self.consumer, MOST)
                done = await intents.purge(connection, CREATE_LINK, MOST)
            gone += deliveries + done
            if max(deliveries, done) < MOST:
                return gone

    async def run(self, stop: asyncio.Event) -> None:
        """Once an hour until `stop`; a database that is away is met again an hour later."""
        while not stop.is_set():
            try:
                if gone := await self.once():
                    log.info("payments.purged", rows=gone)
            except DatabaseAway as away:
                log.warning("payments.purge_waits", error=str(away))
            await pause(stop, EVERY_S)
