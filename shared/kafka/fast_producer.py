"""The producer of the hot path: librdkafka, twice as fast as aiokafka at one record per event.

Same promise as `producer.Producer`: idempotent, acks=all, `send` returns once every record is acked. Records
are handed to librdkafka from the event loop; a thread polls for delivery reports and completes one future per
call, so a call of a hundred events costs the loop one wake-up.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as LibrdkafkaProducer

from shared.domain.errors import BrokerAway, Rejected
from shared.kafka.producer import ACK_DEADLINE_S, MAX_RECORD_BYTES
from shared.postgres.outbox import OutboxMessage
from shared.runtime.settings import KafkaSettings

POLL_S = 0.05
CHECK_S = 2.0
# Longer than any caller's own deadline: an outcome that comes later than that is told to nobody, and the
# producer of the event repeats it with the same identity.
MESSAGE_TIMEOUT_MS = 30_000


class FastProducer:
    """One per process; `send` belongs to one event loop."""

    def __init__(self, settings: KafkaSettings, client_id: str) -> None:
        self._settings, self._client_id = settings, client_id
        self._producer: LibrdkafkaProducer | None = None
        self._stopping = threading.Event()
        self._poller: threading.Thread | None = None
        self._in_doubt = False  # librdkafka met a fatal error: its sequence numbers are lost

    async def start(self) -> None:
        """Raises BrokerAway when no broker answers; the producer is usable all the same, once one does."""
        self._producer = self._make()
        self._poller = threading.Thread(target=self._poll, name="delivery reports", daemon=True)
        self._poller.start()
        problem = await self.check()
        if problem is not None:
            raise BrokerAway(f"Kafka at {self._settings.kafka_bootstrap_servers}: {problem}")

    async def stop(self) -> None:
        """Flush what is in flight and end the thread."""
        if self._producer is not None:
            await asyncio.to_thread(self._producer.flush, 10.0)
        self._stopping.set()
        if self._poller is not None:
            await asyncio.to_thread(self._poller.join, 5.0)
        self._producer = None

    async def check(self) -> str | None:
        """Readiness: None while a broker answers."""
        if self._producer is None:
            return "Kafka: the producer is not started"
        if self._poller is not None and not self._poller.is_alive():
            return "Kafka: the thread of delivery reports has ended"
        try:
            await asyncio.to_thread(self._producer.list_topics, None, CHECK_S)
        except KafkaException as error:
            return f"Kafka does not answer: {error.args[0].str()}"
        return None

    async def send(
        self, messages: Sequence[OutboxMessage], deadline_s: float = ACK_DEADLINE_S
    ) -> list[tuple[int, int]]:
        """Send in order and wait for every ack; returns (partition, offset) of each.

        Raises BrokerAway when an ack does not come in time (the records may or may not be in the log), and
        Rejected (`too_large`) for a record the broker would never take.
        """
        for message in messages:
            if len(message.value or b"") > MAX_RECORD_BYTES:
                raise Rejected("too_large", f"a record may have at most {MAX_RECORD_BYTES} bytes")
        producer = self._ready()
        reports = _Reports(len(messages), asyncio.get_running_loop())
        try:
            for place, message in enumerate(messages):
                producer.produce(
                    message.topic,
                    message.value,
                    message.key,
                    headers=list(message.headers),
                    on_delivery=reports.of(place),
                )
        except BufferError:
            raise BrokerAway("Kafka takes records slower than they come: the send buffer is full") from None
        except KafkaException as error:
            raise BrokerAway(f"Kafka: {error.args[0].str()}") from error
        try:
            async with asyncio.timeout(deadline_s):
                return await reports.done
        except TimeoutError:
            raise BrokerAway(f"Kafka did not acknowledge within {deadline_s:g} s") from None

    def _ready(self) -> LibrdkafkaProducer:
        if self._producer is None:
            raise BrokerAway("Kafka: the producer is not started")
        if self._in_doubt:
            self._in_doubt = False
            self._producer = self._make()
        return self._producer

    def _make(self) -> LibrdkafkaProducer:
        return LibrdkafkaProducer(_configuration(self._settings, self._client_id) | {"error_cb": self._on_error})

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._in_doubt = True

    def _poll(self) -> None:
        while not self._stopping.is_set():
            producer = self._producer
            if producer is None:
                return
            producer.poll(POLL_S)


class _Reports:
    """Delivery reports of one call: counted down in the polling thread, completed in the event loop."""

    def __init__(self, expected: int, loop: asyncio.AbstractEventLoop) -> None:
        self.done: asyncio.Future[list[tuple[int, int]]] = loop.create_future()
        self._loop, self._left = loop, expected
        self._places: list[tuple[int, int]] = [(-1, -1)] * expected
        self._error: BrokerAway | Rejected | None = None
        if expected == 0:
            self.done.set_result([])

    def of(self, place: int) -> Any:
        def report(error: KafkaError | None, message: Message) -> None:
            partition, offset = message.partition(), message.offset()
            if error is None and partition is not None and offset is not None:
                self._places[place] = (partition, offset)
            else:
                self._error = _meaning(error)
            self._left -= 1
            if self._left == 0 and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._complete)

        return report

    def _complete(self) -> None:
        if self.done.done():
            return  # nobody waits any more
        if self._error is None:
            self.done.set_result(self._places)
        else:
            self.done.set_exception(self._error)


def _meaning(error: KafkaError | None) -> BrokerAway | Rejected:
    if error is not None and error.code() in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD):
        return Rejected("too_large", f"Kafka will never take the record: {error.str()}")
    return BrokerAway("Kafka: not acknowledged" if error is None else f"Kafka: {error.str()}")


def _configuration(settings: KafkaSettings, client_id: str) -> dict[str, Any]:
    configuration: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "client.id": client_id,
        "security.protocol": settings.kafka_security_protocol.lower(),
        "acks": "all",
        "enable.idempotence": True,
        "compression.type": "lz4",
        "linger.ms": 2,
        "batch.size": 512 * 1024,
        "batch.num.messages": 20_000,
        "message.max.bytes": 2 * MAX_RECORD_BYTES,
        "message.timeout.ms": MESSAGE_TIMEOUT_MS,
        "queue.buffering.max.messages": 500_000,
        "queue.buffering.max.kbytes": 256 * 1024,
        # As Java and aiokafka choose partitions: a retry meets its first copy whoever sends it.
        "partitioner": "murmur2_random",
        "logger": logging.getLogger(__name__),
    }
    if settings.kafka_sasl_mechanism and settings.kafka_sasl_password:
        configuration |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism,
            "sasl.username": settings.kafka_sasl_username,
            "sasl.password": settings.kafka_sasl_password.get_secret_value(),
        }
    for name, value in (
        ("ssl.ca.location", settings.kafka_ssl_cafile),
        ("ssl.certificate.location", settings.kafka_ssl_certfile),
        ("ssl.key.location", settings.kafka_ssl_keyfile),
    ):
        if value is not None:
            configuration[name] = value
    return configuration
