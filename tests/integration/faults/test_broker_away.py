"""The broker is killed, frozen, and without disk, under load: by the producer's journal nothing is lost or doubled.

plain       Kafka alone: 503 meanwhile, and the producer repeats
spooling    a spool behind Kafka: the producer notices nothing
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.broker import Broker
from tests.support.outages import assert_as_promised, disk_full, frozen, killed, outage, start_both
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
