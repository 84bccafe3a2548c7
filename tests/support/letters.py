"""Dead letters as Khata writes and keeps them, and the commands about them as a person types them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any

import typer
from typer.testing import CliRunner

from cli.main import compose
from services.aggregator.dead_letters.keep import LIMITS, DeadLetters, Keeper, Topics, instance_of
from services.aggregator.dead_letters.letter import read_letter
from services.aggregator.dead_letters.store import add
from shared.contracts.topics import USAGE_EVENTS
from shared.domain.errors import KhataError, Rejected
from shared.kafka.consumer import ConsumerLoop
from shared.kafka.dead_letter import Reject, letter
from shared.kafka.producer import Producer
from shared.kafka.records import Record
from shared.postgres.outbox import OutboxMessage
from shared.runtime.service import exit_code
from tests.conftest import Parts
from tests.support.usage import opened

FAILED_AT = datetime(2026, 10, 20, 12, tzinfo=UTC)


def about(
    topic: str,
    value: bytes | None,
    *headers: tuple[str, bytes],
    offset: int = 0,
    code: str = "unknown_event_type",
    group: str = "khata.aggregator",
    at: datetime = FAILED_AT,
) -> OutboxMessage:
    """The letter about a record of the (real) topic."""
    record = Record(topic, 0, offset, int(at.timestamp() * 1000), b"key", value, headers)
    return letter(Reject(record, Rejected(code, f"because of {code}")), group, "aggregator", at)


async def keep(parts: Parts, *letters: OutboxMessage) -> None:
    """As the aggregator stores them, without the way through Kafka."""
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    read = [
        read_letter(Record(one.topic, 0, n, now_ms, one.key, one.value, one.headers), parts.kafka.names)
        for n, one in enumerate(letters)
    ]
    async with opened(parts.database_url, "khata_aggregator") as database, database.transaction() as connection:
        assert await add(connection, read) == len(letters)


async def write(parts: Parts, *letters: OutboxMessage) -> None:
    producer = Producer(parts.kafka, "test")
    try:
        await producer.send(letters)
    finally:
        await producer.stop()


async def rows(parts: Parts, columns: str = "id, state") -> list[Any]:
    """Of all letters, in the order of their arrival."""
    async with opened(parts.database_url, "khata_reader") as database, database.connection() as connection:
        query = f"SELECT {columns} FROM messaging.dead_letter ORDER BY id".encode()  # noqa: S608
        return await (await connection.execute(query)).fetchall()


@asynccontextmanager
async def keeper(parts: Parts, instance: str = "one") -> AsyncIterator[None]:
    """The aggregator's loop over dead-letter topics, looking for new ones all the time."""
    group, stop = parts.kafka.names.group("aggregator", "dead-letters"), asyncio.Event()
    async with opened(parts.database_url, "khata_aggregator") as database:
        letters = DeadLetters(parts.kafka, database, group)

        def loop(read: Topics) -> ConsumerLoop:
            name = instance_of(instance, read)
            return ConsumerLoop(
                parts.kafka, group=group, instance=name, topics=read, handler=letters, limits=LIMITS, takes_damaged=True
            )

        running = asyncio.create_task(Keeper(letters, loop, look_every_s=0.2).run(stop))
        try:
            yield
        finally:
            stop.set()
            await asyncio.wait_for(running, 15)


async def khata(parts: Parts, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of a command, run in a thread of this process: a process of its own takes a second."""
    environment = parts.env | {"COLUMNS": "200", "KHATA_OPERATOR": "asha"}

    def run() -> tuple[int, str, str]:
        done = CliRunner().invoke(command(), arguments, env=environment, prog_name="khata")
        if isinstance(done.exception, KhataError):  # as cli/main.py tells it
            return exit_code(done.exception), done.stdout, done.stderr + str(done.exception)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout, done.stderr

    return await asyncio.to_thread(run)


@cache
def command() -> typer.Typer:
    return compose()


async def ask(parts: Parts, *arguments: str) -> Any:
    """The command's JSON document."""
    code, out, err = await khata(parts, *arguments, "--output", "json")
    assert code == 0, err
    return json.loads(out)


async def audits(parts: Parts, action: str) -> Sequence[Mapping[str, Any]]:
    async with opened(parts.database_url, "khata_reader") as database, database.connection() as connection:
        found = await connection.execute(
            "SELECT organisation_id, actor, object_id, details FROM audit.entry WHERE action = %s ORDER BY id",
            (action,),
        )
        names = ("organisation", "actor", "object", "details")
        return [dict(zip(names, row, strict=True)) for row in await found.fetchall()]


def events_topic(parts: Parts) -> str:
    return parts.kafka.names.topic(USAGE_EVENTS)
