"""The long-running process and the relay it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from aiokafka import AIOKafkaConsumer

from services.invoicer import attempts
from services.invoicer.attempts import Attempt, Exporter
from shared.contracts.messages.invoice import InvoiceMessage, decode_invoice
from shared.contracts.topics import INVOICES
from shared.domain.errors import BrokerAway
from shared.kafka.producer import Producer
from shared.kafka.relay import relay
from shared.observability import names
from shared.postgres import outbox
from shared.postgres.outbox import OutboxMessage
from shared.postgres.pool import direct_connection
from tests.conftest import Parts
from tests.support.billing import PRICES, World, billing
from tests.support.services import services
from tests.support.waiting import eventually


async def published(parts: Parts) -> list[bytes]:
    """Every value in invoices.v1, in order for each key."""
    consumer = AIOKafkaConsumer(
        parts.kafka.names.topic(INVOICES), bootstrap_servers=parts.bootstrap, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        ends = await consumer.end_offsets(consumer.assignment())
        wanted, found = sum(ends.values()), []
        async with asyncio.timeout(10):
            while len(found) < wanted:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found += [record.value for record in records]
        return found
    finally:
        await consumer.stop()


async def pending(world: World) -> int:
    rows = await world.rows(
        "SELECT count(*) FROM messaging.outbox WHERE topic LIKE '%%invoices.v1' AND published_at IS NULL"
    )
    return int(rows[0][0])


async def test_the_service_publishes_what_was_finalized(parts: Parts, tmp_path: Path) -> None:
    async with billing(parts) as world:
        await world.plant("acme", 1_000_000, 0)
        await world.close()
        with services(tmp_path, parts.env, "invoicer"):
            await eventually(lambda: pending(world), lambda left: left == 0)
        [(invoice_id, issued_on)] = await world.rows("SELECT id::text, issued_on FROM billing.invoice")
        assert [decode_invoice(value) for value in await published(parts)] == [
            InvoiceMessage("finalized", invoice_id, "acme", "KH/25-26/000001", 2025, 10, "INR", 29_500, issued_on)
        ]


async def test_one_process_relays_and_the_other_takes_over_when_it_stops(parts: Parts) -> None:
    async with billing(parts) as world:
        topic = parts.kafka.names.topic(INVOICES)
        sent: list[int] = []

        def start(name: int) -> tuple[asyncio.Event, asyncio.Task[None]]:
            stop = asyncio.Event()
            producer = Counting(name, sent, world.producer)
            work = relay(parts.database, world.database, producer, [topic], stop, role="khata_invoicer")
            return stop, asyncio.create_task(work)

        async def add(*values: bytes) -> None:
            async with world.database.transaction() as connection:
                await outbox.add(connection, [OutboxMessage(topic, b"acme", value) for value in values])

        async def led() -> bool:
            probe = await direct_connection(parts.database, "khata_invoicer", "probe")
            async with probe:
                return not await outbox.leadership(probe, topic)

        first_stop, first = start(1)
        await eventually(led)
        second_stop, second = start(2)
        await add(b"1", b"2")
        await eventually(lambda: pending(world), lambda left: left == 0)
        await add(b"3")
        first_stop.set()
        await first
        await add(b"4")
        await eventually(lambda: pending(world), lambda left: left == 0)
        second_stop.set()
        await second

        assert await published(parts) == [b"1", b"2", b"3", b"4"]
        assert sent[:2] == [1, 1]
        assert sent[-1] == 2


async def test_the_relay_goes_on_after_broker_and_database_were_away(parts: Parts) -> None:
    async with billing(parts) as world:
        topic, stop = parts.kafka.names.topic(INVOICES), asyncio.Event()
        work = asyncio.create_task(
            relay(parts.database, world.database, Failing(2, world.producer), [topic], stop, role="khata_invoicer")
        )
        async with world.database.transaction() as connection:
            await outbox.add(connection, [OutboxMessage(topic, b"acme", b"1")])
        await eventually(lambda: pending(world), lambda left: left == 0)

        with world.owner() as owner:  # the leader's own connection breaks, and its leadership with it
            ended = owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'khata-relay' AND datname = current_database()"
            ).fetchall()
        assert ended == [(True,)]
        async with world.database.transaction() as connection:
            await outbox.add(connection, [OutboxMessage(topic, b"acme", b"2")])
        await eventually(lambda: pending(world), lambda left: left == 0)
        stop.set()
        await work
        assert await published(parts) == [b"1", b"2"]


async def test_what_is_pending_when_the_process_stops_is_published_first(parts: Parts) -> None:
    async with billing(parts) as world:
        topic, stop = parts.kafka.names.topic(INVOICES), asyncio.Event()
        slow = Stopping(stop, world.producer)
        async with world.database.transaction() as connection:
            await outbox.add(connection, [OutboxMessage(topic, b"acme", b"%d" % n) for n in range(1_001)])
        await relay(parts.database, world.database, slow, [topic], stop, role="khata_invoicer")
        assert await pending(world) == 0
        assert len(await published(parts)) == 1_001


async def test_attempts_and_cases_of_commands_are_exported_by_the_service(parts: Parts) -> None:
    def counted() -> dict[str, float]:
        return {
            sample.labels["outcome"]: sample.value
            for metric in names.INVOICE_ATTEMPTS.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        }

    async with billing(parts, prices=PRICES[:1]) as world:
        await world.plant("acme", 1, 1)
        await world.close()
        await world.prices(PRICES)
        await world.close()
        await world.close()
        before, exporter = counted(), Exporter()

        async def exported() -> float:
            async with world.database.connection() as connection:
                await exporter.export(connection)
            return sum(counted().values()) - sum(before.values())

        await eventually(exported, lambda found: found >= 3)  # autovacuum may hold the horizon back for a moment
        await exported()
        after = counted()
    assert {outcome: after[outcome] - before.get(outcome, 0) for outcome in ("parked", "created", "replayed")} == {
        "parked": 1,
        "created": 1,
        "replayed": 1,
    }


async def test_an_attempt_that_commits_late_is_counted_once_and_nothing_is_counted_twice(parts: Parts) -> None:
    def counted() -> float:
        return names.INVOICE_ATTEMPTS.labels("lost_race")._value.get()

    async def export() -> None:
        async with world.database.connection() as connection:
            await exporter.export(connection)

    async with billing(parts) as world:
        before, exporter = counted(), Exporter()
        async with world.database.transaction() as slow:
            await attempts.record(slow, "slow", Attempt.LOST_RACE, "test")  # the lower id
            async with world.database.transaction() as quick:
                await attempts.record(quick, "quick", Attempt.LOST_RACE, "test")
            await export()

        async def both() -> float:
            await export()
            return counted() - before

        await eventually(both, lambda found: found >= 2)
        await export()
        assert counted() - before == 2


class Counting(Producer):
    """The real producer, noting by which relay each record went out."""

    def __init__(self, name: int, sent: list[int], through: Producer) -> None:
        self._name, self._sent, self._through = name, sent, through

    async def publish(self, messages: Sequence[OutboxMessage]) -> None:
        await self._through.publish(messages)
        self._sent += [self._name] * len(messages)


class Failing(Producer):
    """The real producer behind a broker that does not answer the first few times."""

    def __init__(self, failures: int, through: Producer) -> None:
        self._failures, self._through = failures, through

    async def publish(self, messages: Sequence[OutboxMessage]) -> None:
        if self._failures:
            self._failures -= 1
            raise BrokerAway("Kafka did not acknowledge")
        await self._through.publish(messages)


class Stopping(Producer):
    """The real producer, under which the process is told to stop while it publishes."""

    def __init__(self, stop: asyncio.Event, through: Producer) -> None:
        self._stop, self._through = stop, through

    async def publish(self, messages: Sequence[OutboxMessage]) -> None:
        self._stop.set()
        await self._through.publish(messages)
