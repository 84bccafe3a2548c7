"""Two aggregators race and die while traffic flows: the judge knows what was sent, repeated and contradicted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from devstack.stack import Stack
from shared.contracts.topics import USAGE_EVENTS, dead_letter
from tests.support.aggregators import BATCH, advanced, aggregating, fed, kill_at, letters_wait, storm
from tests.support.feed import Feed
from tests.support.kafka import refuse_records
from tests.support.plant import Plant
from tests.support.zombies import everything_moves, freeze, through_a_proxy, wake

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def running(stack: Stack, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    addresses, home = stack.addresses, tmp_path_factory.mktemp("plant")
    with aggregating(home, addresses.kafka_bootstrap, addresses.database_url, template_database) as made:
        yield made


@pytest.fixture(scope="module")
def feed(running: Plant) -> Feed:
    return Feed(running.parts)


@pytest.mark.failpoints(*BATCH)
async def test_one_of_two_killed_anywhere_in_a_batch(running: Plant, feed: Feed) -> None:
    async with fed(running, feed):
        for point in BATCH:
            await kill_at(running, point)


async def test_one_frozen_in_the_middle_of_its_identities_holds_nobody_up_and_wakes_to_nothing(
    running: Plant, feed: Feed
) -> None:
    victim = running.pods["one"]
    async with through_a_proxy(running, victim) as proxy, fed(running, feed):
        await feed.more(200)
        await freeze(running, victim, proxy, "insert")
        print(f"everything moved after {await everything_moves(running):.1f} s")
        wake(victim, proxy)


async def test_members_that_come_and_go(running: Plant, feed: Feed) -> None:
    async with fed(running, feed):
        assert await storm(running, 20.0) >= 3


async def test_while_the_broker_refuses_dead_letters_events_go_on_and_no_letter_is_lost(
    running: Plant, feed: Feed
) -> None:
    letters = running.parts.kafka.names.topic(dead_letter(USAGE_EVENTS))
    async with fed(running, feed):
        await asyncio.to_thread(refuse_records, running.parts, letters, refuse=True)
        await letters_wait(running)
        await advanced(running)
        await asyncio.to_thread(refuse_records, running.parts, letters, refuse=False)
