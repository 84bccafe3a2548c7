"""The broker is killed, frozen, and without disk, under load: by the producer's journal nothing is lost or doubled.

plain       Kafka alone: 503 meanwhile, and the producer repeats
spooling    a spool behind Kafka: the producer notices nothing
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.stack import Stack
from tests.support.aggregators import aggregating, outages
from tests.support.broker import Broker
from tests.support.feed import Feed
from tests.support.outages import assert_as_promised, back, disk_full, frozen, killed, outage, start_both
from tests.support.plant import Plant

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def running(on_broker: Plant) -> Iterator[Plant]:
    start_both(on_broker)
    yield on_broker


async def test_a_broker_that_is_killed_and_comes_back(running: Plant, broker: Broker) -> None:
    assert_as_promised(await outage(running, broker, "killed", killed, 5.0), least=5)


async def test_a_broker_that_hangs_and_goes_on(running: Plant, broker: Broker) -> None:
    assert_as_promised(await outage(running, broker, "frozen", frozen, 3.0), least=5)


async def test_a_broker_whose_disk_is_full_and_gets_room_again(running: Plant, broker: Broker) -> None:
    assert_as_promised(await outage(running, broker, "full", disk_full, 1.0), least=1)


@pytest.fixture
def two(broker: Broker, stack: Stack, template_database: str, tmp_path: Path) -> Iterator[Plant]:
    with aggregating(tmp_path, broker.bootstrap, stack.addresses.database_url, template_database) as made:
        yield made


async def test_two_aggregators_whose_broker_is_killed_twice_count_everything_once(two: Plant, broker: Broker) -> None:
    await outages(two, Feed(two.parts), 2, lambda: killed_and_back(broker))


async def killed_and_back(broker: Broker) -> None:
    await killed(broker)
    await back(broker)
