"""The producer of the hot path: librdkafka, twice as fast as aiokafka at one record per event.

Same promise as `producer.Producer`: idempotent, acks=all, `send` returns once every record is acked. Records
are handed to librdkafka from the event loop; a thread polls for delivery reports and completes one future per
call, so a call of a hundred events costs the loop one wake-up. A witness is told of every outcome, also of one
that comes when the caller waits no more.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

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
NO_PLACE = (-1, -1)


class Witness(Protocol):
    """Hears, in the event loop, where the records of each `send` are in the log."""

    def acked(self, messages: Sequence[OutboxMessage], places: Sequence[tuple[int, int]]) -> None:
        """(partition, offset) of each message, `NO_PLACE` for one whose ack never came."""


class FastProducer:
    """One per process; `send` belongs to one event loop."""

    def __init__(self, settings: KafkaSettings, client_id: str, witness: Witness | None = None) -> None:
        self._settings, self._client_id, self._witness = settings, client_id, witness
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
            if message.value is not None and len(message.value) > MAX_RECORD_BYTES:
                raise Rejected("too_large", f"a record may have at most {MAX_RECORD_BYTES} bytes")
        if not messages:
            return []
        producer = self._ready()
        reports = _Reports(messages, asyncio.get_running_loop(), self._witness)
        produce, headers_of = producer.produce, _HeaderLists()
        try:
            for place, message in enumerate(messages):
                produce(
                    message.topic,
                    message.value,
                    message.key,
                    headers=headers_of[message.headers],
                    on_delivery=partial(reports.of, place),
                )
        except BufferError:
            reports.only(place)
            raise BrokerAway("Kafka takes records slower than they come: the send buffer is full") from None
        except KafkaException as error:
            reports.only(place)
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


class _HeaderLists(dict[tuple[tuple[str, bytes], ...], list[tuple[str, str | bytes | None]]]):
    """librdkafka's client wants lists; the records of one call nearly always share one."""

    def __missing__(self, headers: tuple[tuple[str, bytes], ...]) -> list[tuple[str, str | bytes | None]]:
        made = self[headers] = list(headers)
        return made


class _Reports:
    """Delivery reports of one call: counted in the polling thread, completed in the event loop.

    `_told` is written by that thread alone and `_expected` by the loop alone; whoever sees them meet completes.
    """

    __slots__ = ("_completed", "_error", "_expected", "_loop", "_messages", "_places", "_told", "_witness", "done")

    def __init__(
        self, messages: Sequence[OutboxMessage], loop: asyncio.AbstractEventLoop, witness: Witness | None
    ) -> None:
        self.done: asyncio.Future[list[tuple[int, int]]] = loop.create_future()
        self._messages, self._loop, self._witness = messages, loop, witness
        self._told, self._expected = 0, len(messages)
        self._places = [NO_PLACE] * len(messages)
        self._error: BrokerAway | Rejected | None = None
        self._completed = False

    def of(self, place: int, error: KafkaError | None, message: Message) -> None:
        """The report of one record, in the polling thread."""
        partition, offset = message.partition(), message.offset()
        if error is None and partition is not None and offset is not None:
            self._places[place] = (partition, offset)
        else:
            self._error = _meaning(error)
        self._told += 1
        if self._told == self._expected and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._complete)

    def only(self, sent: int) -> None:
        """The others were never handed over; the caller gets an error and waits for nothing."""
        self.done.cancel()
        del self._places[sent:]
        self._messages, self._expected = self._messages[:sent], sent
        if self._told == sent:
            self._complete()

    def _complete(self) -> None:
        if self._completed:
            return
        self._completed = True
        if self._witness is not None:
            self._witness.acked(self._messages, self._places)
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
