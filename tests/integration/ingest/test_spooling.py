"""With a spool behind it, ingest says "yes" while Kafka is away, and everything is counted once it is back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from devstack.stack import Stack, reset
from shared.contracts.topics import USAGE_EVENTS
from shared.domain.errors import Misconfigured
from shared.kafka import topics
from tests.conftest import Parts
from tests.support.catalogue import apply_document
from tests.support.kafka import read_topic
from tests.support.services import Services, services
from tests.support.waiting import eventually


def event(number: int) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"{number}",
        "source": "spooling",
        "type": "api.request",
        "subject": "alice",
        "data": {"tokens": 1},
    }


async def send(running: Services, key: str, first: int, count: int) -> int:
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        answer = await client.post(
            running.url("ingest") + "/v1/events",
            content=json.dumps([event(number) for number in range(first, first + count)]),
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/cloudevents-batch+json"},
        )
    return answer.status_code


async def ids_in_the_log(parts: Parts) -> list[str]:
    records = await read_topic(parts, parts.kafka.names.topic(USAGE_EVENTS))
    return [json.loads(record.value or b"{}")["id"] for record in records]


@pytest.fixture
def spooling(parts: Parts, tmp_path: Path) -> dict[str, str]:
    return parts.env | {"SPOOL_PATH": str(tmp_path / "spool.sqlite3"), "SPOOL_MIN_FREE_BYTES": "0"}


async def test_everything_goes_through_the_spool_at_an_edge_and_arrives(
    parts: Parts, tmp_path: Path, spooling: dict[str, str]
) -> None:
    keys = (await apply_document(parts)).secrets
    with services(tmp_path, spooling | {"INGEST_ACCEPT": "spool"}, "ingest") as running:
        assert await send(running, keys["acme-app/first"], 0, 50) == 202
        found = await eventually(lambda: ids_in_the_log(parts), lambda ids: len(ids) >= 50)
    assert sorted(map(int, found)) == list(range(50))


async def test_a_stop_drains_what_was_accepted(parts: Parts, tmp_path: Path, spooling: dict[str, str]) -> None:
    keys = (await apply_document(parts)).secrets
    with services(tmp_path, spooling | {"INGEST_ACCEPT": "spool"}, "ingest") as running:
        for call in range(5):
            assert await send(running, keys["acme-app/first"], call * 100, 100) == 202
    assert sorted(map(int, set(await ids_in_the_log(parts)))) == list(range(500))


def test_spool_first_without_a_spool_is_a_mistake_of_the_settings(parts: Parts, tmp_path: Path) -> None:
    wrong = parts.env | {"INGEST_ACCEPT": "spool"}
    with pytest.raises(Misconfigured, match="SPOOL_PATH"), services(tmp_path, wrong, "ingest"):
        pass


@pytest.fixture
def broker(parts: Parts) -> Iterator[tuple[Parts, Path]]:
    """A Kafka of the test's own, to be stopped and started."""
    home = Path(tempfile.mkdtemp(prefix="khata-broker-"))
    home.chmod(0o755)
    with Stack.start(home, database_url=parts.database_url) as stack:
        own = Parts(parts.database_url, stack.addresses.kafka_bootstrap, parts.prefix)
        asyncio.run(topics.apply(own.kafka, dev=True))
    yield own, home
    reset(home)


@pytest.mark.timeout(120)
async def test_a_broker_that_is_away_is_not_noticed_by_producers_and_nothing_is_lost(
    broker: tuple[Parts, Path], tmp_path: Path
) -> None:
    own, home = broker
    env = own.env | {
        "SPOOL_PATH": str(tmp_path / "spool.sqlite3"),
        "SPOOL_MIN_FREE_BYTES": "0",
        "INGEST_ACK_DEADLINE_S": "1",
    }
    stack = await asyncio.to_thread(_start, home, own)
    keys = (await apply_document(own)).secrets
    with services(tmp_path, env, "ingest") as running:
        key = keys["acme-app/first"]
        assert await send(running, key, 0, 10) == 202
        await asyncio.to_thread(stack.stop)
        statuses = [await send(running, key, 10 + call * 10, 10) for call in range(20)]
        assert statuses == [202] * 20
        pid = running.supervisor.pid("ingest")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)  # what was accepted is on the disk
        stack = await asyncio.to_thread(_start, home, own)
        try:
            found = await eventually(lambda: ids_in_the_log(own), lambda ids: len(set(ids)) >= 210, 60)
            assert sorted(map(int, set(found))) == list(range(210))
        finally:
            await asyncio.to_thread(running.supervisor.stop)
            await asyncio.to_thread(stack.stop)


def _start(home: Path, own: Parts) -> Stack:
    stack = Stack.start(home, database_url=own.database_url)
    assert stack.addresses.kafka_bootstrap == own.bootstrap
    return stack
