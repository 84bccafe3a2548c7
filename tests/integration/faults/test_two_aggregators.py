"""Two aggregators race and die while traffic flows: the judge knows what was sent, repeated and contradicted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest

from devstack.stack import Stack
from shared.contracts.topics import USAGE_EVENTS, dead_letter
from tests.support.aggregators import BATCH, advanced, aggregating, fed, kill_at, letters_wait, storm
from tests.support.feed import Feed, judge
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
        assert await storm(running, 12.0) >= 2


async def test_while_the_broker_refuses_dead_letters_events_go_on_and_no_letter_is_lost(
    running: Plant, feed: Feed
) -> None:
    letters = running.parts.kafka.names.topic(dead_letter(USAGE_EVENTS))
    async with fed(running, feed):
        await asyncio.to_thread(refuse_records, running.parts, letters, refuse=True)
        await letters_wait(running)
        await advanced(running)
        await asyncio.to_thread(refuse_records, running.parts, letters, refuse=False)


HARMS = {  # what is wrong with it, and how it is made good again
    "a window counts one too many": (
        "UPDATE usage.window SET count = count + 1 WHERE hour = (SELECT min(hour) FROM usage.window)",
        "UPDATE usage.window SET count = count - 1 WHERE hour = (SELECT min(hour) FROM usage.window)",
    ),
    "a sum is wrong in the last decimal": (
        "UPDATE usage.window SET sum = sum + 1e-18 WHERE meter_id = 'tokens'",
        "UPDATE usage.window SET sum = sum - 1e-18 WHERE meter_id = 'tokens'",
    ),
    "an event that counts is said to repeat": (
        "UPDATE usage.segment SET dispositions = set_byte(dispositions, 0, 100), stored_at = 'infinity' "
        "WHERE get_byte(dispositions, 0) = 99",
        "UPDATE usage.segment SET dispositions = set_byte(dispositions, 0, 99), stored_at = now() "
        "WHERE stored_at = 'infinity'",
    ),
    "an offset has moved too far": (
        "UPDATE messaging.consumer_offset SET next_offset = next_offset + 1",
        "UPDATE messaging.consumer_offset SET next_offset = next_offset - 1",
    ),
    "an identity that nobody sent": (
        "INSERT INTO usage.identity SELECT max(id), gen_random_uuid(), 7, -7, 7 FROM usage.generation",
        "DELETE FROM usage.identity WHERE partition = -7",
    ),
    "a conflict that is not": (
        "UPDATE usage.conflict SET log_offset = log_offset + 1000000",
        "UPDATE usage.conflict SET log_offset = log_offset - 1000000",
    ),
    "a dead letter of another record": (
        "UPDATE messaging.dead_letter SET partition = partition + 9",
        "UPDATE messaging.dead_letter SET partition = partition - 9",
    ),
}


async def test_the_judge_sees_each_of_these(running: Plant, feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Last: nothing is on its way."""
    monkeypatch.setattr("tests.support.feed.LETTERS_S", 0.1)
    with psycopg.connect(running.parts.database_url, autocommit=True) as owner:
        for name, (harm, undo) in HARMS.items():
            assert owner.execute(harm.encode()).rowcount > 0, name
            with pytest.raises(AssertionError):
                await judge(feed)
            owner.execute(undo.encode())
    feed.acked[99, 0] = b"acked, and nowhere"
    with pytest.raises(AssertionError, match="not in the log"):
        await judge(feed)
    del feed.acked[99, 0]
    await judge(feed)
