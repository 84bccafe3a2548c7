"""Store what keys did and what watch found: `keys.activity.v1` and `anomalies.v1` into usage.key_activity, anomaly.

Beside the loop that counts usage, and never in its way: what stops this one is told (`khata_advice_read` 0) and tried
again. Like every consumer it moves its offsets in the transaction that stores the records; identities are unique,
so a record that is there twice is stored once. When retention took records that were never read, it goes on after them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from msgspec import UNSET
from psycopg.types.json import Jsonb

from shared.contracts.messages.activity import KeyActivity, decode_activity
from shared.contracts.messages.anomaly import Anomaly, Class, decode_anomaly
from shared.contracts.topics import ANOMALIES, KEYS_ACTIVITY, Topic
from shared.domain.errors import BrokerAway, DatabaseAway, KhataError, LogMoved, Rejected
from shared.kafka import dead_letter, offsets
from shared.kafka.consumer import ConsumerLoop
from shared.kafka.dead_letter import Reject
from shared.kafka.offsets import StoredOffset
from shared.kafka.producer import Producer
from shared.kafka.records import Batch, Partition, Record
from shared.observability import logging
from shared.observability import names as metrics
from shared.postgres.pool import Connection, Database
from shared.runtime.pause import pause
from shared.runtime.settings import KafkaSettings

READ: tuple[Topic, ...] = (KEYS_ACTIVITY, ANOMALIES)
AGAIN_S = 10.0
PURGE_EVERY_S = 3600.0
PURGE_MOST = 5_000  # rows of one transaction

log = logging.get(__name__)


@dataclass
class Advice:
    """Handler of the consumer loop for both topics; what is in them is told apart by the topic's name."""

    settings: KafkaSettings
    database: Database
    producer: Producer
    group: str

    async def stored(self, partitions: Sequence[Partition]) -> Mapping[Partition, StoredOffset | None]:
        async with self.database.connection() as connection:
            return await offsets.stored(connection, self.group, partitions)

    async def apply(self, batch: Batch) -> None:
        """Dead letters of what cannot be read, then one transaction. Raises DatabaseAway, BrokerAway, Fenced."""
        activity, anomalies, rejects = self._decoded(batch)
        await dead_letter.write(self.producer, rejects, self.group, "aggregator")
        async with self.database.transaction() as connection:
            await offsets.move(connection, self.group, batch.ranges)
            stored = await _store_activity(connection, activity)
            found = await _store_anomalies(connection, anomalies)
        metrics.KEY_ACTIVITY_STORED.inc(stored)
        for kind, count in found.items():
            metrics.ANOMALIES_FOUND.labels(kind).inc(count)

    def _decoded(self, batch: Batch) -> tuple[list[KeyActivity], list[Anomaly], list[Reject]]:
        activity: list[KeyActivity] = []
        anomalies: list[Anomaly] = []
        rejects: list[Reject] = []
        of_anomalies = self.settings.names.topic(ANOMALIES)
        for record in batch.records:
            try:
                if record.topic == of_anomalies:
                    anomalies.append(decode_anomaly(_value(record)))
                else:
                    activity.append(decode_activity(_value(record)))
            except msgspec.MsgspecError as error:
                rejects.append(Reject(record, Rejected("malformed", f"not what the topic holds: {error}")))
            except Rejected as error:
                rejects.append(Reject(record, error))
        return activity, anomalies, rejects

    async def go_on_after_what_is_lost(self) -> None:
        """Start at each log's beginning: what is there twice is stored once. Raises BrokerAway, DatabaseAway."""
        consumer = AIOKafkaConsumer(*map(self.settings.names.topic, READ), **self.settings.client_arguments())
        try:
            await consumer.start()
            starts = await consumer.beginning_offsets(list(consumer.assignment()))
        except KafkaError as error:
            raise BrokerAway(f"Kafka: {error}") from error
        finally:
            await consumer.stop()
        async with self.database.transaction() as connection, connection.cursor() as cursor:
            await cursor.executemany(
                """
                UPDATE messaging.consumer_offset
                SET next_offset = %s, last_offset = NULL, last_digest = NULL, updated_at = now()
                WHERE consumer_group = %s AND topic = %s AND partition = %s
                """,
                [(start, self.group, *partition) for partition, start in sorted(starts.items())],
            )


async def keep(advice: Advice, make: Callable[[], ConsumerLoop], stop: asyncio.Event) -> None:
    """Run the loop until `stop`, whatever happens to it."""
    for kind in Class:
        metrics.ANOMALIES_FOUND.labels(kind.value)  # 0 from the start: the first finding is an increase
    while not stop.is_set():
        try:
            metrics.ADVICE_READ.set(1)
            await make().run(stop)
        except KhataError as error:
            metrics.ADVICE_READ.set(0)
            log.error("aggregator.advice_stopped", error=str(error), again_in_s=AGAIN_S)
            if isinstance(error, LogMoved):
                await _move_on(advice)
            await pause(stop, AGAIN_S)


async def _move_on(advice: Advice) -> None:
    try:
        await advice.go_on_after_what_is_lost()
    except (BrokerAway, DatabaseAway) as away:
        log.warning("aggregator.advice_waits", error=str(away))


async def purge(database: Database, stop: asyncio.Event) -> None:
    """Once an hour until `stop`; how old is too old is the database's (0011_activity.sql)."""
    while not stop.is_set():
        try:
            for function in ("usage.purge_key_activity", "usage.purge_anomalies"):
                await _purge(database, function, stop)
        except DatabaseAway as away:
            log.warning("aggregator.purge_waits", error=str(away))
        await pause(stop, PURGE_EVERY_S)


async def _purge(database: Database, function: str, stop: asyncio.Event) -> None:
    while not stop.is_set():
        async with database.transaction() as connection:
            row = await (await connection.execute(f"SELECT {function}(%s)".encode(), (PURGE_MOST,))).fetchone()  # noqa: S608
        if row is None or row[0] < PURGE_MOST:
            return


def _value(record: Record) -> bytes:
    """Raises Rejected for what Postgres could not store as text."""
    if record.value is None:
        raise Rejected("malformed", "the record has no value")
    if b"\\u0000" in record.value:
        raise Rejected("malformed", "a text holds NUL")
    return record.value


async def _store_activity(connection: Connection, activity: Sequence[KeyActivity]) -> int:
    """How many were not there yet."""
    if not activity:
        return 0
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            INSERT INTO usage.key_activity
                (key_id, minute, process_id, project_id, organisation_id, calls, accepted, rejected, failed,
                 addresses, address_count, addresses_overflow)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT DO NOTHING
            """,
            [
                (
                    *(one.key_id, one.minute, one.process_id, one.project_id, one.organisation_id),
                    *(one.calls, one.accepted, one.rejected, Jsonb(one.failed)),
                    *(list(one.addresses), one.address_count, one.addresses_overflow),
                )
                for one in activity
            ],
        )
        return max(0, cursor.rowcount)


async def _store_anomalies(connection: Connection, anomalies: Sequence[Anomaly]) -> Counter[str]:
    """How many of each class were not there yet."""
    found: Counter[str] = Counter()
    for one in anomalies:
        cursor = await connection.execute(
            """
            INSERT INTO usage.anomaly
                (id, class, key_id, project_id, organisation_id, minute, observed, usual, text, address,
                 subject, meter_id, meter_version, dimensions, quantity, usual_quantity)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s::numeric, %s::numeric)
            ON CONFLICT DO NOTHING
            """,
            (
                *(one.id, one.found.value, one.key_id, one.project_id, one.organisation_id),
                *(one.minute, one.observed, one.usual, one.text, one.address),
                *_window(one),
            ),
        )
        found[one.found.value] += cursor.rowcount
    return found


def _window(one: Anomaly) -> tuple[str | int | None, ...]:
    """Subject, meter, its version, dimensions, quantity and the usual one, of a finding about a window."""
    about = one.window
    if about is UNSET:
        return (None,) * 6
    return (
        *(about.subject, about.meter_id, about.meter_version),
        *(None if each is UNSET else each for each in (about.dimensions, about.quantity, about.usual_quantity)),
    )
