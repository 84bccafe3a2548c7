"""Wire payments: two consumer loops, the worker that calls Razorpay, the hourly purge, and the relay of payments.v1."""

from __future__ import annotations

import asyncio

from services.payments.apply import WebhookApplier
from services.payments.carry_out import Worker
from services.payments.collect import Collector
from services.payments.purge import Purge
from services.payments.razorpay.client import RazorpayGateway
from services.payments.settings import PaymentsSettings
from shared.contracts.topics import INVOICES, PAYMENTS, PAYMENTS_WEBHOOKS, dead_letter
from shared.kafka import topics
from shared.kafka.consumer import ConsumerLoop
from shared.kafka.producer import Producer
from shared.kafka.relay import relay
from shared.observability import logging
from shared.postgres.migrate import require_current
from shared.postgres.pool import Database
from shared.runtime import service
from shared.runtime.service import Process

log = logging.get(__name__)


async def run(settings: PaymentsSettings, process: Process) -> None:
    """Everything in one process. On stop the loops and the calls finish what they hold, the relay drains last."""
    needed = (INVOICES, PAYMENTS_WEBHOOKS, PAYMENTS, dead_letter(INVOICES), dead_letter(PAYMENTS_WEBHOOKS))
    await topics.require(settings, needed)
    database = Database(settings, "khata_payments", "payments")
    await database.open()
    producer = Producer(settings, f"payments-{settings.instance}")
    gateway = RazorpayGateway(settings, settings.calls)
    payments_topic = settings.names.topic(PAYMENTS)
    webhooks = _webhooks(settings, database, producer, payments_topic)
    invoices = _invoices(settings, database, producer)
    worker = Worker(settings, database, gateway, payments_topic, settings.calls)
    purge = Purge(database, settings.names.group("payments", "webhooks"))
    process.health.checks |= {
        "database": database.check,
        "kafka": producer.check,
        "webhooks": webhooks.check,
        "invoices": invoices.check,
    }
    work_done = asyncio.Event()
    try:
        async with database.connection() as connection:
            await require_current(connection)
        await producer.start()
        log.info("payments.open", provider=settings.razorpay_base_url, key_id=settings.razorpay_key_id)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(relay(settings, database, producer, [payments_topic], work_done, role="khata_payments"))
            try:
                async with asyncio.TaskGroup() as work:
                    work.create_task(webhooks.run(process.stop))
                    work.create_task(invoices.run(process.stop))
                    work.create_task(worker.run(process.stop))
                    work.create_task(purge.run(process.stop))
            finally:
                work_done.set()
    finally:
        gateway.close()
        await producer.stop()
        await database.close()


def _webhooks(settings: PaymentsSettings, database: Database, producer: Producer, topic: str) -> ConsumerLoop:
    group = settings.names.group("payments", "webhooks")
    return ConsumerLoop(
        settings,
        group=group,
        instance=settings.instance,
        topics=[settings.names.topic(PAYMENTS_WEBHOOKS)],
        handler=WebhookApplier(database, producer, group, settings.razorpay_account_id, topic),
        limits=settings.limits,
    )


def _invoices(settings: PaymentsSettings, database: Database, producer: Producer) -> ConsumerLoop:
    group = settings.names.group("payments", "invoices")
    return ConsumerLoop(
        settings,
        group=group,
        instance=settings.instance,
        topics=[settings.names.topic(INVOICES)],
        handler=Collector(database, producer, group),
        limits=settings.limits,
    )


def main() -> int:
    return service.main("payments", PaymentsSettings, run)
