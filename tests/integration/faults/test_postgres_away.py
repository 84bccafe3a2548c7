"""Postgres is gone: keys authenticate, both doors accept, ingest starts; all of it is counted afterwards, once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.stack import Stack
from tests.support.aggregators import aggregating, outages
from tests.support.feed import Feed
from tests.support.plant import Plant, plant
from tests.support.postgres import Postgres, private_postgres


@pytest.fixture(scope="module")
def postgres(stack: Stack) -> Iterator[Postgres]:
    with private_postgres(stack.addresses.kafka_bootstrap) as server:
        yield server


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


@pytest.fixture
def two(postgres: Postgres, stack: Stack, tmp_path: Path) -> Iterator[Plant]:
    with aggregating(tmp_path, stack.addresses.kafka_bootstrap, postgres.url) as made:
        yield made


async def test_two_aggregators_whose_postgres_is_killed_three_times_count_everything_once(
    two: Plant, postgres: Postgres
) -> None:
    await outages(two, Feed(two.parts), 3, lambda: asyncio.to_thread(killed_and_back, postgres))


def killed_and_back(postgres: Postgres) -> None:
    postgres.kill()
    postgres.start()
