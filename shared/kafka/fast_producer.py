"""The producer of the hot path: librdkafka, twice as fast as aiokafka at one record per event.

Same promise as `producer.Producer`: idempotent, acks=all, `send` returns once every record is acked. Records
are handed to librdkafka from the event loop, and the loop asks it each millisecond for delivery reports while some
are awaited: a thread for that would fight the loop for the interpreter and wake it for every call. A witness is told
of every outcome, also of one that comes when the caller waits no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as LibrdkafkaProducer

from shared.domain.errors import BrokerAway, Rejected
from shared.kafka.producer import ACK_DEADLINE_S, MAX_RECORD_BYTES
from shared.postgres.outbox import OutboxMessage
from shared.runtime.settings import KafkaSettings

POLL_S = 0.001
IDLE_S = 0.1  # errors and log lines of librdkafka come the same way
CHECK_S = 2.0
FLUSH_S = 3.0  # nobody waits any more: `send` has told every caller what became of its records
# Longer than any caller's own deadline: an outcome that comes later than that is told to nobody, and the
# producer of the event repeats it with the same identity.
MESSAGE_TIMEOUT_MS = 30_000
AT_ONCE = 500  # a spool's thousands must not hold up the calls of others
NO_PLACE = (-1, -1)
BY_KEY = -1  # as librdkafka says it


class Witness(Protocol):
    """Hears, in the event loop, where the records of each `send` are in the log."""

    def acked(self, messages: Sequence[OutboxMessage], places: Sequence[tuple[int, int]]) -> None:
        """(partition, offset) of each message, `NO_PLACE` for one whose ack never came."""


class FastProducer:
    """One per process; belongs to one event loop."""

    def __init__(self, settings: KafkaSettings, client_id: str, witness: Witness | None = None) -> None:
        self._settings, self._client_id, self._witness = settings, client_id, witness
        self._producer: LibrdkafkaProducer | None = None
        self._replaced: list[LibrdkafkaProducer] = []  # reports of theirs are still awaited
        self._in_doubt = False  # librdkafka met a fatal error: its sequence numbers are lost
        self._timer: asyncio.TimerHandle | None = None
        self._idle = True

    async def start(self) -> None:
        """Raises BrokerAway when no broker answers; the producer is usable all the same, once one does."""
        self._producer = self._make()
        self._serve_reports()
        problem = await self.check()
        if problem is not None:
            raise BrokerAway(problem)

    async def stop(self) -> None:
        """Wait a little for what is in flight."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                while any(map(len, self._producers())):
                    await asyncio.sleep(POLL_S)
        if self._timer is not None:
            self._timer.cancel()
        self._producer, self._replaced = None, []

    async def check(self) -> str | None:
        """Readiness: None while a broker answers."""
        if self._producer is None:
            return "Kafka: the producer is not started"
        try:
            await asyncio.to_thread(self._producer.list_topics, None, CHECK_S)
        except KafkaException as error:
            return f"Kafka at {self._settings.kafka_bootstrap_servers} does not answer: {error.args[0].str()}"
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
        loop = asyncio.get_running_loop()
        reports = _Reports(messages, loop.create_future(), self._witness)
        produce, headers_of = producer.produce, _HeaderLists()
        try:
            for place, message in enumerate(messages):
                if place and place % AT_ONCE == 0:
                    await asyncio.sleep(0)
                produce(
                    message.topic,
                    message.value,
                    message.key,
                    BY_KEY if message.partition is None else message.partition,
                    headers=headers_of[message.headers],
                    on_delivery=partial(reports.of, place),
                )
        except BufferError:
            reports.only(place)
            raise BrokerAway("Kafka takes records slower than they come: the send buffer is full") from None
        except KafkaException as error:
            reports.only(place)
            raise BrokerAway(f"Kafka: {error.args[0].str()}") from error
        except asyncio.CancelledError:
            reports.only(place)
            raise
        self._expect_reports(loop)
        expiry = loop.call_later(deadline_s, reports.expire, deadline_s)
        try:
            return await reports.done
        finally:
            expiry.cancel()

    def _ready(self) -> LibrdkafkaProducer:
        if self._producer is None:
            raise BrokerAway("Kafka: the producer is not started")
        if self._in_doubt:
            self._in_doubt = False
            self._replaced.append(self._producer)
            self._producer = self._make()
        return self._producer

    def _producers(self) -> list[LibrdkafkaProducer]:
        return self._replaced if self._producer is None else [*self._replaced, self._producer]

    def _make(self) -> LibrdkafkaProducer:
        return LibrdkafkaProducer(_configuration(self._settings, self._client_id) | {"error_cb": self._on_error})

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._in_doubt = True

    def _expect_reports(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._idle and self._timer is not None:
            self._timer.cancel()
            self._idle, self._timer = False, loop.call_later(POLL_S, self._serve_reports)

    def _serve_reports(self) -> None:
        """Complete the calls whose reports have come; soon again while others are awaited."""
        try:
            for producer in self._producers():
                producer.poll(0)
        finally:
            self._replaced = [producer for producer in self._replaced if len(producer)]
            self._idle = not any(map(len, self._producers()))
            self._timer = asyncio.get_running_loop().call_later(IDLE_S if self._idle else POLL_S, self._serve_reports)


class _HeaderLists(dict[tuple[tuple[str, bytes], ...], list[tuple[str, str | bytes | None]]]):
    """librdkafka's client wants lists; the records of one call nearly always share one."""

    def __missing__(self, headers: tuple[tuple[str, bytes], ...]) -> list[tuple[str, str | bytes | None]]:
        made = self[headers] = list(headers)
        return made


class _Reports:
    """Delivery reports of one call, counted down."""

    __slots__ = ("_doubtful", "_error", "_left", "_messages", "_places", "_witness", "done")

    def __init__(
        self, messages: Sequence[OutboxMessage], done: asyncio.Future[list[tuple[int, int]]], witness: Witness | None
    ) -> None:
        self.done, self._messages, self._witness = done, messages, witness
        self._left = len(messages)
        self._places = [NO_PLACE] * len(messages)
        self._error: BrokerAway | Rejected | None = None
        self._doubtful = False

    def of(self, place: int, error: KafkaError | None, message: Message) -> None:
        """The report of one record."""
        partition, offset = message.partition(), message.offset()
        if error is None and partition is not None and offset is not None:
            self._places[place] = (partition, offset)
            self._doubtful |= offset < 0
        else:
            self._error = _meaning(error)
        self._left -= 1
        if not self._left:
            self._complete()

    def only(self, sent: int) -> None:
        """The others were never handed over; the caller gets an error and waits for nothing."""
        self.done.cancel()
        self._left -= len(self._messages) - sent
        del self._places[sent:]
        self._messages = self._messages[:sent]
        if sent and not self._left:  # all of them were reported while the rest was being handed over
            self._complete()

    def expire(self, deadline_s: float) -> None:
        if not self.done.done():
            self.done.set_exception(BrokerAway(f"Kafka did not acknowledge within {deadline_s:g} s"))

    def _complete(self) -> None:
        if self._witness is not None:
            self._witness.acked(self._messages, self._known_places() if self._doubtful else self._places)
        if self.done.done():
            return  # nobody waits any more
        if self._error is None:
            self.done.set_result(self._places)
        else:
            self.done.set_exception(self._error)

    def _known_places(self) -> list[tuple[int, int]]:
        """A batch that the broker had already is reported with offsets counted from -1: none of them is a place."""
        unknown = {partition for partition, offset in self._places if offset < 0}
        return [NO_PLACE if place[0] in unknown else place for place in self._places]


def _meaning(error: KafkaError | None) -> BrokerAway | Rejected:
    if error is not None and error.code() in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD):
        return Rejected("too_large", f"Kafka will never take the record: {error.str()}")
    return BrokerAway("Kafka: not acknowledged" if error is None else f"Kafka: {error.str()}")


def _configuration(settings: KafkaSettings, client_id: str) -> dict[str, Any]:
    return settings.librdkafka_arguments() | {
        "client.id": client_id,
        "acks": "all",
        "enable.idempotence": True,
        "compression.type": "lz4",
        "linger.ms": 2,
        "socket.nagle.disable": True,
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
