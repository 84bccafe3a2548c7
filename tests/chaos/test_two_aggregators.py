"""Two aggregators race and die, again and again, while traffic never stops."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from devstack.stack import Stack
from tests.support.aggregators import (
    BATCH,
    DROP,
    GENERATION,
    REDRIVE,
    WINDOWS,
    aggregating,
    fed,
    kill_at,
    nothing_found,
    storm,
)
from tests.support.feed import Feed
from tests.support.plant import Plant
from tests.support.zombies import PLACES, everything_moves, freeze, through_a_proxy, wake

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

KILLS = 20  # at each point
STORM_S = 300.0
ZOMBIES = 5  # at each place
SMALL_GENERATION = {"AGGREGATOR_GENERATION_KEYS": "1500"}


@pytest.fixture
def running(stack: Stack, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    addresses, home = stack.addresses, tmp_path_factory.mktemp("plant")
    servers = (addresses.kafka_bootstrap, addresses.database_url, template_database)
    with aggregating(home, *servers, **SMALL_GENERATION) as made:
        yield made


async def test_two_hundred_kills_at_every_point_of_the_aggregator(running: Plant) -> None:
    kills = [*BATCH, *WINDOWS, *GENERATION, DROP, REDRIVE] * KILLS
    random.Random(1).shuffle(kills)
    async with fed(running, Feed(running.parts), identities_dropped=True):
        for point in kills:
            await kill_at(running, point)
    print(f"{len(kills)} kills")


async def test_five_minutes_in_which_members_come_and_go(running: Plant) -> None:
    async with fed(running, Feed(running.parts)):
        print(f"{await storm(running, STORM_S)} members came and went")
    await nothing_found(running)


async def test_zombies_frozen_anywhere_again_and_again(running: Plant) -> None:
    feed, victim = Feed(running.parts), running.pods["one"]
    async with through_a_proxy(running, victim) as proxy, fed(running, feed):
        for place in PLACES * ZOMBIES:
            await feed.more(200)
            await freeze(running, victim, proxy, place)
            print(f"{place}: everything moved after {await everything_moves(running):.1f} s")
            wake(victim, proxy)
            await asyncio.to_thread(victim.wait_ready)
    await nothing_found(running)
