"""Postgres and the broker are killed dozens of times under two aggregators, and Postgres stays away for a minute."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.stack import Stack
from tests.support.aggregators import advanced, aggregating, fed, nothing_found, outages
from tests.support.broker import Broker
from tests.support.feed import Feed
from tests.support.memory import held_mb, needs_linux
from tests.support.outages import back, killed
from tests.support.plant import Plant
from tests.support.postgres import Postgres, private_postgres

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

POSTGRES_KILLS, BROKER_KILLS = 50, 20
AWAY_S = 60.0
FLAT_MB = 30  # what a process may grow by while it waits


@pytest.fixture(scope="module")
def postgres(stack: Stack) -> Iterator[Postgres]:
    with private_postgres(stack.addresses.kafka_bootstrap) as server:
        yield server


@pytest.fixture
def on_postgres(postgres: Postgres, stack: Stack, tmp_path: Path) -> Iterator[Plant]:
    with aggregating(tmp_path, stack.addresses.kafka_bootstrap, postgres.url) as made:
        yield made


async def test_a_postgres_that_is_killed_fifty_times(on_postgres: Plant, postgres: Postgres) -> None:
    """The server itself with SIGKILL, or with all its sessions (an immediate shutdown)."""
    dice = random.Random(1)

    async def one() -> None:
        await asyncio.sleep(dice.uniform(0, 0.5))  # the moment is what is drawn
        await asyncio.to_thread(dice.choice([postgres.kill, postgres.stop_at_once]))
        await asyncio.to_thread(postgres.start)

    await outages(on_postgres, Feed(on_postgres.parts), POSTGRES_KILLS, one)
    await nothing_found(on_postgres)


@pytest.fixture
def on_own_broker(broker: Broker, stack: Stack, template_database: str, tmp_path: Path) -> Iterator[Plant]:
    with aggregating(tmp_path, broker.bootstrap, stack.addresses.database_url, template_database) as made:
        yield made


async def test_a_broker_that_is_killed_twenty_times(on_own_broker: Plant, broker: Broker) -> None:
    async def one() -> None:
        await killed(broker)
        await back(broker)

    await outages(on_own_broker, Feed(on_own_broker.parts), BROKER_KILLS, one)
    await nothing_found(on_own_broker)


@needs_linux
async def test_while_postgres_is_away_for_a_minute_nothing_is_a_dead_letter_and_memory_stays_flat(
    on_postgres: Plant, postgres: Postgres
) -> None:
    feed = Feed(on_postgres.parts, damage=False)
    pods = [on_postgres.pods[name] for name in ("one", "two")]
    async with fed(on_postgres, feed):
        await feed.more(2_000)
        await advanced(on_postgres)
        await asyncio.to_thread(postgres.stop)
        before = [held_mb(pod.pid) for pod in pods]
        await asyncio.sleep(AWAY_S)  # how long it lasts is what is tested
        after = [held_mb(pod.pid) for pod in pods]
        assert [pod.child.exit_code for pod in pods if pod.child] == [None, None]
        await asyncio.to_thread(postgres.start)
        await advanced(on_postgres)
    print(f"MB before {before}, after {AWAY_S:g} s {after}")
    assert all(now < then + FLAT_MB for then, now in zip(before, after, strict=True)), (before, after)
