"""Changes of keys as `khata keys` makes them: one transaction, then catalogue.v1 is fed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from shared.catalogue import key_changes, key_store
from shared.catalogue.key_changes import Change, Rotated
from shared.catalogue.key_store import NewKey, StoredKey
from shared.catalogue.keys import MadeKey
from shared.contracts.topics import CATALOGUE
from shared.kafka.producer import Producer
from shared.postgres import outbox
from shared.postgres.pool import Connection, Database
from tests.conftest import Parts
from tests.support.services import peppers

T = TypeVar("T")


@dataclass
class KeyOffice:
    """What an operator does with keys."""

    database: Database
    producer: Producer
    change: Change

    async def create(self, new: NewKey, *, live: bool = True) -> tuple[str, StoredKey]:
        """The key's text, and its row."""
        made = MadeKey.under(peppers(), live)
        return made.text, await self.once(lambda connection: key_changes.create(connection, made, new, self.change))

    async def rotate(
        self, project: str, name: str, grace: timedelta, lifetime: timedelta | None = None
    ) -> tuple[str, Rotated]:
        seen = await self.holder(project, name)
        made = MadeKey.under(peppers(), seen.live)
        return made.text, await self.once(
            lambda connection: key_changes.rotate(connection, made, seen, grace, lifetime, self.change)
        )

    async def revoke(self, target: str, reason: str = "") -> tuple[list[StoredKey], list[StoredKey]]:
        return await self.once(lambda connection: key_changes.revoke(connection, target, reason, self.change))

    async def holder(self, project: str, name: str) -> StoredKey:
        async with self.database.connection() as connection:
            found = await key_store.holder(connection, project, name)
        assert found is not None
        return found

    async def of_name(self, project: str, name: str) -> list[StoredKey]:
        async with self.database.connection() as connection:
            return await key_store.read(connection, project=project, name=name)

    async def once(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async with self.database.transaction() as connection:
            done = await work(connection)
        while await outbox.relay_once(self.database, self.change.topic, self.producer.publish):
            pass
        return done


@asynccontextmanager
async def key_office(parts: Parts) -> AsyncIterator[KeyOffice]:
    database, producer = Database(parts.database, "khata_catalogue", "test"), Producer(parts.kafka, "test")
    await database.open()
    try:
        yield KeyOffice(database, producer, Change("test", parts.kafka.names.topic(CATALOGUE)))
    finally:
        await database.close()
        await producer.stop()
