"""The positions that Kafka is told of, one request at a time, while the loop goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError, UnknownMemberIdError

from shared.kafka.records import Partition
from shared.observability import logging

DEADLINE_S = 5.0

log = logging.get(__name__)


class Committed:
    """Of one group member. What is noted while a request is under way goes with the next one."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._waiting: dict[Partition, int] = {}
        self._request: asyncio.Task[None] | None = None

    def note(self, consumer: AIOKafkaConsumer, offsets: Mapping[Partition, int]) -> None:
        """These are durable now. Raises what an earlier request did not expect: a bug."""
        self._waiting |= offsets
        if self._waiting and (self._request is None or self._request.done()):
            if self._request is not None:
                self._request.result()
            self._request = asyncio.create_task(self._send(consumer))

    async def under_way(self) -> None:
        """Until the request under way is answered."""
        if self._request is not None:
            await self._request

    async def finish(self, consumer: AIOKafkaConsumer) -> None:
        """Until all that was noted is sent."""
        await self.under_way()
        await self._send(consumer)

    async def _send(self, consumer: AIOKafkaConsumer) -> None:
        offsets = {partition: end for partition, end in self._waiting.items() if partition in consumer.assignment()}
        self._waiting = {}
        try:
            if offsets:
                await asyncio.wait_for(consumer.commit(offsets), DEADLINE_S)
        except (CommitFailedError, IllegalStateError, UnknownMemberIdError, KafkaError, TimeoutError) as error:
            log.warning("consumer.commit_hint_lost", group=self._group, error=str(error) or type(error).__name__)
