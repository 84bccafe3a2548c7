"""The demo's producers: one per door, both repeat a send until it has an answer, both write the journal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cli.demo.journal import Journal
from cli.demo.plan import Send
from services.ingest.client import IngestClient
from shared.contracts.headers import CLOUDEVENT_JSON, CONTENT_TYPE
from shared.domain.errors import BrokerAway
from shared.kafka.producer import Producer
from shared.postgres.outbox import OutboxMessage

BATCH = 100
IN_FLIGHT = 4
PATIENCE_S = 120.0

Numbered = Sequence[tuple[int, Send]]


@dataclass
class Producers:
    """`progress` is told how many sends were answered."""

    journal: Journal
    clients: Mapping[str, IngestClient]  # by project
    kafka: Producer
    raw_topic: str
    progress: Callable[[int], None]
    batch: int = BATCH
    _room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(IN_FLIGHT))

    async def send_all(self, sends: Sequence[Send]) -> None:
        """Send one wave and return when every send has its answer."""
        numbered = self.journal.intend(sends)
        async with asyncio.TaskGroup() as tasks:
            for batch in self._batches(numbered):
                await self._room.acquire()
                tasks.create_task(self._and_leave(batch))

    async def send_batch(self, sends: Sequence[Send]) -> None:
        """Send a few (same door, same project) as one call."""
        await self._send(self.journal.intend(sends))

    def _batches(self, numbered: Numbered) -> list[Numbered]:
        groups: dict[tuple[str, str], list[tuple[int, Send]]] = {}
        for number, send in numbered:
            groups.setdefault((send.door, send.project), []).append((number, send))
        batches = [
            group[first : first + self.batch] for group in groups.values() for first in range(0, len(group), self.batch)
        ]
        return sorted(batches, key=lambda batch: batch[0][0])

    async def _and_leave(self, batch: Numbered) -> None:
        try:
            await self._send(batch)
        finally:
            self._room.release()

    async def _send(self, batch: Numbered) -> None:
        if batch[0][1].door == "http":
            await self._over_http(batch)
        else:
            await self._over_kafka(batch)
        self.progress(len(batch))

    async def _over_http(self, batch: Numbered) -> None:
        answer = await self.clients[batch[0][1].project].send([send.body for _, send in batch])
        refused = {index: code for index, code, _ in answer.refused}
        self.journal.rejected([(batch[index][0], code) for index, code in refused.items()])
        self.journal.accepted([number for index, (number, _) in enumerate(batch) if index not in refused])

    async def _over_kafka(self, batch: Numbered) -> None:
        messages = [
            OutboxMessage(self.raw_topic, send.subject.encode(), send.body, ((CONTENT_TYPE, CLOUDEVENT_JSON),))
            for _, send in batch
        ]
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                places = await self.kafka.send(messages)
            except BrokerAway:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.2)
            else:
                self.journal.accepted([number for number, _ in batch], places)
                return
