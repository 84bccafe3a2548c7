"""Postgres is gone: keys authenticate, both doors accept, ingest starts; all of it is counted afterwards."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.stack import Stack, reset
from tests.support.plant import Plant, plant


class Postgres:
    """A server of the test's own; it comes back at the same address with the same data."""

    def __init__(self, home: Path, bootstrap: str) -> None:
        self._home, self._bootstrap = home, bootstrap
        self.start()

    def start(self) -> None:
        self._stack = Stack.start(self._home, kafka_bootstrap=self._bootstrap, report=lambda _: None)
        self.url = self._stack.addresses.database_url

    def stop(self) -> None:
        self._stack.stop()


@pytest.fixture(scope="module")
def postgres(stack: Stack) -> Iterator[Postgres]:
    home = Path(tempfile.mkdtemp(prefix="khata-postgres-"))
    home.chmod(0o755)
    server = Postgres(home, stack.addresses.kafka_bootstrap)
    yield server
    server.stop()
    reset(home)


@pytest.fixture(scope="module")
def running(postgres: Postgres, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    home = tmp_path_factory.mktemp("plant")
    with plant(home, stack.addresses.kafka_bootstrap, postgres.url) as made:
        made.start(made.pod("ingest"), made.pod("aggregator", "aggregator"))
        yield made


async def test_what_is_accepted_while_postgres_is_away_is_counted_when_it_is_back(
    running: Plant, postgres: Postgres
) -> None:
    ingest = running.pods["ingest"]
    http, raw = running.journal("http", ingest), running.journal("raw", ingest)
    await http.send()
    await running.settled(http)
    await asyncio.to_thread(postgres.stop)
    try:
        async with http.load():
            await http.more(200)
            await raw.send_raw(running.parts)
        assert http.statuses.keys() == {202}
        await asyncio.to_thread(ingest.kill)
        await asyncio.to_thread(ingest.start)
        async with http.load():
            await http.more(200)
            await raw.send_raw(running.parts)
        assert http.statuses.keys() == {202}
    finally:
        await asyncio.to_thread(postgres.start)
    await running.settled(http, raw)
