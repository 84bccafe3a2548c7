"""Wire the aggregator: database, producer, consumer loop, relay of rejects; beside it key activity and dead letters."""

from __future__ import annotations

import asyncio
import gc

from services.aggregator import activity
from services.aggregator.activity import Advice
from services.aggregator.apply import Aggregator
from services.aggregator.backfill.run import Backfiller
from services.aggregator.breaker import Breaker
from services.aggregator.corrections.keeper import Keeper as CorrectionKeeper
from services.aggregator.dead_letters import keep
from services.aggregator.dead_letters.keep import DeadLetters, Keeper
from services.aggregator.generations.filters import Filters
from services.aggregator.generations.keeper import Keeper as GenerationKeeper
from services.aggregator.reconcile import schedule
from services.aggregator.settings import AggregatorSettings
from services.aggregator.windows.changed import Changed
from services.aggregator.windows.heal import Healer
from services.aggregator.windows.publish import Publisher, Sender
from shared.contracts.topics import USAGE_EVENTS, USAGE_WINDOWS, dead_letter
from shared.kafka import topics
from shared.kafka.consumer import ConsumerLoop
from shared.kafka.fast_producer import FastProducer
from shared.kafka.producer import Producer
from shared.kafka.relay import relay
from shared.postgres.migrate import require_current
from shared.postgres.pool import Database, Role
from shared.runtime import service
from shared.runtime.service import Process

ROLE: Role = "khata_aggregator"


async def run(settings: AggregatorSettings, process: Process) -> None:
    """Apply batches until stopped; the batch in flight is finished first."""
    # A batch is some 60,000 objects that live for two of them and hold no cycles: looked through at every 700th that
    # is made, as by default, they would cost a tenth of the processor.
    gc.set_threshold(200_000)
    database = Database(settings, ROLE, "aggregator")
    producer = Producer(settings, f"aggregator-{settings.instance}")
    await database.open()
    try:
        async with database.connection() as connection:
            await require_current(connection)
        read = (USAGE_EVENTS, *activity.READ)
        await topics.require(settings, (*read, *map(dead_letter, read)))
        changed = Changed() if settings.publish_windows else None
        if changed is not None:
            await topics.require(settings, (USAGE_WINDOWS,))
        await producer.start()
        group = settings.names.group("aggregator")
        filters = Filters(settings.filter_dir)
        loop = ConsumerLoop(
            settings,
            group=group,
            instance=settings.instance,
            topics=[settings.names.topic(USAGE_EVENTS)],
            handler=Aggregator(database, group, filters, Breaker(settings.breaker_ratio), changed),
            limits=settings.limits,
        )
        process.health.checks |= {"database": database.check, "kafka": producer.check, "consumer": loop.check}
        rejects = settings.names.topic(dead_letter(USAGE_EVENTS))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(loop.run(process.stop))
            tasks.create_task(relay(settings, database, producer, [rejects], process.stop, role=ROLE))
            tasks.create_task(
                GenerationKeeper(settings, database, filters, settings.generation_limits).run(process.stop)
            )
            if changed is not None:
                tasks.create_task(_publish(settings, database, changed, process.stop))
            tasks.create_task(CorrectionKeeper(settings, settings.names, database).run(process.stop))
            tasks.create_task(Backfiller(settings, database).run(process.stop))
            tasks.create_task(_keep_advice(settings, database, producer, process.stop))
            tasks.create_task(activity.purge(database, process.stop))
            if settings.reconcile:
                tasks.create_task(schedule.keep(database, process.stop))
            tasks.create_task(_keep_dead_letters(settings, database, process.stop))
            tasks.create_task(keep.count(settings, database, process.stop))
            tasks.create_task(keep.purge(database, process.stop))
    finally:
        await producer.stop()
        await database.close()


async def _publish(settings: AggregatorSettings, database: Database, changed: Changed, stop: asyncio.Event) -> None:
    """With a producer of its own: the cheapest there is, for one event may change several windows."""
    topic = settings.names.topic(USAGE_WINDOWS)
    producer = FastProducer(settings, f"aggregator-windows-{settings.instance}")
    await producer.start()
    try:
        sender = Sender(database, producer, topic, await topics.partitions_of(settings, topic))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(Publisher(changed, sender, settings.publish_every_s).run(stop))
            tasks.create_task(Healer(settings, settings.names, sender, settings.publish_every_s).run(stop))
    finally:
        await producer.stop()


async def _keep_advice(
    settings: AggregatorSettings, database: Database, producer: Producer, stop: asyncio.Event
) -> None:
    group = settings.names.group("aggregator", "activity")
    advice = Advice(settings, database, producer, group)

    def loop() -> ConsumerLoop:
        names = [settings.names.topic(topic) for topic in activity.READ]
        return ConsumerLoop(settings, group=group, instance=settings.instance, topics=names, handler=advice)

    await activity.keep(advice, loop, stop)


async def _keep_dead_letters(settings: AggregatorSettings, database: Database, stop: asyncio.Event) -> None:
    group = settings.names.group("aggregator", "dead-letters")
    letters = DeadLetters(settings, database, group)

    def loop(read: keep.Topics) -> ConsumerLoop:
        return ConsumerLoop(
            settings,
            group=group,
            instance=keep.instance_of(settings.instance, read),
            topics=read,
            handler=letters,
            limits=keep.LIMITS,
            takes_damaged=True,
        )

    await Keeper(letters, loop).run(stop)


def main() -> int:
    return service.main("aggregator", AggregatorSettings, run)
