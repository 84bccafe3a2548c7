"""`khata events tail`: follow the accepted events of a project, as they stand in `usage.events.v1`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import msgspec
import typer
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.contracts.messages.event import StampedEvent, decode_event
from shared.contracts.topics import USAGE_EVENTS
from shared.domain.errors import BrokerAway
from shared.kafka import topics
from shared.runtime.output import Output, OutputOption, stderr
from shared.runtime.settings import KafkaSettings, load

DATA_SHOWN = 120


def tail(
    project: str = typer.Option(help="whose events"),
    mode: str = typer.Option("live", help="live, test or all"),
    from_beginning: bool = typer.Option(False, "--from-beginning", help="all that the topic still holds, then follow"),
    count: int | None = typer.Option(None, min=1, help="end after so many events"),
    output: Output = OutputOption,
) -> None:
    """Show events as they are accepted, duplicates too; json writes one a line. Ends with Ctrl-C."""
    if mode not in ("live", "test", "all"):
        raise typer.BadParameter("live, test or all", param_hint="--mode")
    settings = load(KafkaSettings)

    async def work() -> None:
        left = count
        async with contextlib.aclosing(follow(settings, project, from_beginning=from_beginning)) as events:
            async for event in events:
                if mode != "all" and event.live != (mode == "live"):
                    continue
                print(_line(event, output), flush=True)
                left = None if left is None else left - 1
                if left == 0:
                    return

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(work())


async def follow(settings: KafkaSettings, project: str, *, from_beginning: bool) -> AsyncGenerator[StampedEvent, None]:
    """Events of the project for ever; joins no group, so nobody's position moves. Raises BrokerAway, Misconfigured."""
    topic = settings.names.topic(USAGE_EVENTS)
    partitions = [TopicPartition(topic, number) for number in range(await topics.partitions_of(settings, topic))]
    consumer = AIOKafkaConsumer(
        **settings.client_arguments(), enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=200
    )
    try:
        await consumer.start()
        consumer.assign(partitions)
        await (consumer.seek_to_beginning if from_beginning else consumer.seek_to_end)(*partitions)
        for partition in partitions:
            await consumer.position(partition)  # found now: what comes after this line is shown
        stderr.print(f"following {topic}, project {project}", style="dim", highlight=False)
        async for record in consumer:
            with contextlib.suppress(msgspec.MsgspecError, UnicodeError):  # the aggregator says what it is
                event = decode_event(record.value or b"")
                if event.project == project:
                    yield event
    except KafkaError as error:
        raise BrokerAway(f"Kafka at {settings.kafka_bootstrap_servers}: {error}") from error
    finally:
        await consumer.stop()


def _line(event: StampedEvent, output: Output) -> str:
    if output is Output.JSON:
        return msgspec.json.encode(event).decode()
    data = bytes(event.data).decode()
    shown = data if len(data) <= DATA_SHOWN else f"{data[:DATA_SHOWN]}... ({len(data)} characters)"
    test = "" if event.live else "test  "
    where = f"{event.source} {event.id}"
    return f"{event.time.isoformat()}  {test}{event.type}  {event.subject}  {where}  {' '.join(shown.split())}"
