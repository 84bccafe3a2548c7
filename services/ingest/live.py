"""How many ingest processes share the limits: each tells on `ingest.processes.v1` that it lives, and counts the others.

Counted by the order of the log, with no clock: another process is gone when GONE_AFTER beats of our own have come back
from the topic and none of its own between them, or when it says that it leaves. While Kafka is away no beat comes
back, so the last number stands. A process hears who is there, and is heard, before its door opens.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.contracts.messages.process import Beat, decode_beat, encode_beat
from shared.contracts.topics import INGEST_PROCESSES
from shared.domain.errors import BrokerAway
from shared.kafka.producer import AckedSender
from shared.observability import logging
from shared.observability import names as metrics
from shared.postgres.outbox import OutboxMessage
from shared.runtime.pause import pause
from shared.runtime.settings import KafkaSettings

BEAT_S = 5.0
GONE_AFTER = 3  # own beats; killed, a process is counted for so many beats more
READ_BACK_MS = 20_000  # from before the start: who is there has told it since
RETRY_S = 1.0
SEND_S = 4.0
STOP_S = 3.0

log = logging.get(__name__)


@dataclass(slots=True)
class Live:
    """The `LiveProcesses` of the limits. `ready` once a beat of our own has come back, or could not be sent."""

    process_id: str
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    _missed: dict[str, int] = field(default_factory=dict)  # of each other process: own beats since its last

    def count(self) -> int:
        return 1 + len(self._missed)

    def hear(self, beat: Beat) -> None:
        """The next record of the topic."""
        if beat.process_id == self.process_id:
            self.ready.set()
            self._missed = {id: missed + 1 for id, missed in self._missed.items() if missed < GONE_AFTER}
        elif beat.leaving:
            self._missed.pop(beat.process_id, None)
        else:
            self._missed[beat.process_id] = 0
        metrics.LIVE_PROCESSES.set(self.count())

    async def run(self, settings: KafkaSettings, sender: AckedSender, stop: asyncio.Event) -> None:
        """Beat and listen until `stop`, then say so. Never raises for Kafka's sake."""
        listening = asyncio.create_task(self._listen(settings, stop))
        while True:
            await self._tell(settings, sender, leaving=False)
            if await pause(stop, BEAT_S):
                break
        await self._tell(settings, sender, leaving=True)
        await asyncio.wait({listening}, timeout=STOP_S)  # a broker that hangs is not waited for
        listening.cancel()
        await asyncio.wait({listening})

    async def _tell(self, settings: KafkaSettings, sender: AckedSender, *, leaving: bool) -> None:
        value = encode_beat(Beat(self.process_id, leaving))
        message = OutboxMessage(settings.names.topic(INGEST_PROCESSES), self.process_id.encode(), value)
        try:
            await sender.send([message], SEND_S)
        except BrokerAway as error:
            log.warning("ingest.beat_waits", error=str(error), counted=self.count())
            self.ready.set()  # nobody can be heard: a door with a catalogue need not wait for that

    async def _listen(self, settings: KafkaSettings, stop: asyncio.Event) -> None:
        while not stop.is_set():
            consumer = AIOKafkaConsumer(
                **settings.client_arguments(), enable_auto_commit=False, auto_offset_reset="latest"
            )
            try:
                await consumer.start()
                await self._from(consumer, TopicPartition(settings.names.topic(INGEST_PROCESSES), 0), stop)
            except KafkaError as error:
                log.warning("ingest.live_processes", error=str(error) or type(error).__name__, counted=self.count())
                await pause(stop, RETRY_S)
            finally:
                await consumer.stop()

    async def _from(self, consumer: AIOKafkaConsumer, partition: TopicPartition, stop: asyncio.Event) -> None:
        """Raises KafkaError."""
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]  # first: what comes after it will be read
        since = int(time.time() * 1000) - READ_BACK_MS
        found = (await consumer.offsets_for_times({partition: since}))[partition]
        consumer.seek(partition, end if found is None else min(end, found.offset))
        while not stop.is_set():
            for record in (await consumer.getmany(partition, timeout_ms=500)).get(partition, ()):
                try:
                    self.hear(decode_beat(record.value or b""))
                except msgspec.MsgspecError as error:
                    log.warning("ingest.beat_unreadable", error=str(error))
