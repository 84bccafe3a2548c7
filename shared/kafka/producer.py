"""The producer: idempotent, acks=all, and "sent" means acked.

After an error that leaves the producer in doubt about its own sequence numbers it is built anew;
an outcome that stays unknown is BrokerAway, and whoever retries repeats the same identity.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from shared.contracts.topics import DEAD_LETTER_SUFFIX, MAX_DEAD_LETTER_BYTES
from shared.domain.errors import BrokerAway, Rejected
from shared.observability import logging
from shared.postgres.outbox import OutboxMessage
from shared.runtime.settings import KafkaSettings

ACK_DEADLINE_S = 10.0
STOP_S = 3.0  # nobody waits any more: `send` has told every caller what became of its records
MAX_RECORD_BYTES = 1_000_000  # the broker's default message.max.bytes, less its own framing

log = logging.get(__name__)


class AckedSender(Protocol):
    """What accepts records and tells when they are in the log: this producer, or the fast one of the hot path."""

    async def send(
        self, messages: Sequence[OutboxMessage], deadline_s: float = ACK_DEADLINE_S
    ) -> list[tuple[int, int]]: ...


class Producer:
    """One per process. Safe to use from many tasks of one event loop."""

    def __init__(self, settings: KafkaSettings, client_id: str, *, linger_ms: int = 5) -> None:
        self._settings, self._client_id, self._linger_ms = settings, client_id, linger_ms
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Raises BrokerAway when no broker answers."""
        await self._ready()

    async def stop(self) -> None:
        """Flush and close."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(producer.stop(), STOP_S)

    async def check(self) -> str | None:
        """Readiness: None while a producer is connected."""
        try:
            producer = await asyncio.wait_for(self._ready(), 2.0)
            await asyncio.wait_for(producer.client.fetch_all_metadata(), 2.0)
        except (BrokerAway, KafkaError, TimeoutError) as error:
            return f"Kafka does not answer: {error or type(error).__name__}"
        return None

    async def send(
        self, messages: Sequence[OutboxMessage], deadline_s: float = ACK_DEADLINE_S
    ) -> list[tuple[int, int]]:
        """Send in order and wait for every ack; returns (partition, offset) of each.

        Raises BrokerAway when an ack does not come in time (the records may or may not be in the log), and
        Rejected (`too_large`) for a record the broker would never take.
        """
        for message in messages:
            most = MAX_DEAD_LETTER_BYTES if message.topic.endswith(DEAD_LETTER_SUFFIX) else MAX_RECORD_BYTES
            if len(message.value or b"") > most:
                raise Rejected("too_large", f"a record may have at most {most} bytes")
        try:
            async with asyncio.timeout(deadline_s):
                producer = await self._ready()
                acks = [
                    await producer.send(
                        message.topic,
                        message.value,
                        key=_key(message),
                        partition=message.partition,
                        headers=list(message.headers),
                    )
                    for message in messages
                ]
                done = await asyncio.gather(*acks)
        except MessageSizeTooLargeError as error:
            await self._discard(error)  # the broker waits for the sequence numbers of what it refused
            raise Rejected("too_large", str(error)) from error
        except TimeoutError:
            raise BrokerAway(f"Kafka did not acknowledge within {deadline_s:g} s") from None
        except KafkaError as error:
            await self._discard(error)
            raise BrokerAway(f"Kafka: {error or type(error).__name__}") from error
        return [(ack.partition, ack.offset) for ack in done]

    async def publish(self, messages: Sequence[OutboxMessage]) -> None:
        """`send` for those who need no offsets (outbox relay)."""
        await self.send(messages)

    async def _ready(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self._settings.client_arguments(),
                    client_id=self._client_id,
                    acks="all",
                    enable_idempotence=True,
                    compression_type="lz4",
                    linger_ms=self._linger_ms,
                    max_batch_size=256 * 1024,
                    max_request_size=MAX_DEAD_LETTER_BYTES + MAX_RECORD_BYTES,
                    request_timeout_ms=int(ACK_DEADLINE_S * 1000),
                )
                try:
                    await producer.start()
                except KafkaError as error:
                    await producer.stop()
                    raise BrokerAway(f"Kafka at {self._settings.kafka_bootstrap_servers}: {error}") from error
                self._producer = producer
            return self._producer

    async def _discard(self, error: KafkaError) -> None:
        """Forget a producer whose state is in doubt; the next send builds another."""
        producer, self._producer = self._producer, None
        log.warning("producer.rebuilt", error=str(error) or type(error).__name__)
        if producer is not None:
            with contextlib.suppress(TimeoutError, KafkaError):
                await asyncio.wait_for(producer.stop(), 2.0)


def _key(message: OutboxMessage) -> bytes | None:
    """aiokafka refuses a record that has neither key nor value, which others may write: it gets an empty key."""
    return b"" if message.key is None and message.value is None else message.key
