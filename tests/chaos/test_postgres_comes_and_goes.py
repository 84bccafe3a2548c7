"""Postgres is stopped and killed again and again, and stays away for a minute: producers never notice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from devstack.stack import Stack
from tests.support.plant import Plant, plant
from tests.support.postgres import Postgres, private_postgres

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

AWAY_S = (60.0, *[2.0] * 10)


@pytest.fixture(scope="module")
def postgres(stack: Stack) -> Iterator[Postgres]:
    with private_postgres(stack.addresses.kafka_bootstrap) as server:
        yield server


@pytest.fixture(scope="module")
def running(postgres: Postgres, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with plant(tmp_path_factory.mktemp("plant"), stack.addresses.kafka_bootstrap, postgres.url) as made:
        made.start(made.pod("ingest"), made.pod("aggregator", "aggregator"))
        yield made


async def test_producers_never_notice_and_everything_is_counted(running: Plant, postgres: Postgres) -> None:
    dice, ingest, aggregator = random.Random(1), running.pods["ingest"], running.pods["aggregator"]
    http, raw = running.journal("http", ingest), running.journal("raw", ingest)
    async with http.load():
        for away_s in AWAY_S:
            await asyncio.to_thread(dice.choice([postgres.stop, postgres.kill]))
            await raw.send_raw(running.parts)
            await asyncio.sleep(away_s)
            await asyncio.to_thread(postgres.start)
            await http.more(200)
            assert aggregator.child is not None and aggregator.child.exit_code is None
    assert http.statuses.keys() == {202}
    await running.settled(http, raw, deadline_s=120)
    print(f"answered: {len(http.answered)} over HTTP, {len(raw.answered)} on Kafka")
