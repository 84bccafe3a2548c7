"""`khata run invoicer`: relays invoices.v1 from the outbox and exports what the commands have counted.

Closing a month is a command (`khata invoices close`), which writes to Postgres alone; this process carries the
messages on. A second process stands by.
"""

from __future__ import annotations

import asyncio

from services.invoicer.attempts import Exporter
from services.invoicer.settings import InvoicerSettings
from shared.contracts.topics import INVOICES
from shared.kafka import topics
from shared.kafka.producer import Producer
from shared.kafka.relay import relay
from shared.postgres.migrate import require_current
from shared.postgres.pool import Database, Role
from shared.runtime import service
from shared.runtime.service import Process

ROLE: Role = "khata_invoicer"


async def run(settings: InvoicerSettings, process: Process) -> None:
    database = Database(settings, ROLE, "invoicer")
    producer = Producer(settings, f"invoicer-{settings.instance}")
    await database.open()
    try:
        async with database.connection() as connection:
            await require_current(connection)
        await topics.require(settings, [INVOICES])
        await producer.start()
        process.health.checks |= {"database": database.check, "kafka": producer.check}
        topic = settings.names.topic(INVOICES)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(relay(settings, database, producer, [topic], process.stop, role=ROLE))
            tasks.create_task(Exporter().run(database, process.stop))
    finally:
        await producer.stop()
        await database.close()


def main() -> int:
    return service.main("invoicer", InvoicerSettings, run)
