"""Kill after kill under load that never stops: at every named place, and at moments that nobody chose."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from devstack.stack import Stack
from tests.support.kills import (
    DOOR,
    POINTS,
    kill_at_the_kafka_door,
    kill_before_a_purge,
    kill_under_load,
    start_three,
)
from tests.support.plant import Plant, plant

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

ROUNDS = 8  # of every point
ANYWHERE = "anywhere"
PURGES = 3


@pytest.fixture(scope="module")
def running(stack: Stack, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    addresses = stack.addresses
    home = tmp_path_factory.mktemp("plant")
    with plant(home, addresses.kafka_bootstrap, addresses.database_url, template_database) as made:
        start_three(made)
        yield made


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_about_a_hundred_kills_lose_and_double_nothing(running: Plant, seed: int) -> None:
    dice = random.Random(seed)
    kills = [point for point, _ in POINTS] * ROUNDS + [DOOR] * ROUNDS + [ANYWHERE] * 2 * ROUNDS
    dice.shuffle(kills)
    edge, direct = (running.journal(f"{name}-{seed}", running.pods[name]) for name in ("edge", "direct"))
    raw = running.journal(f"raw-{seed}", running.pods["direct"])
    async with edge.load(patience_s=120), direct.load(patience_s=120):
        for kill in kills:
            if kill == ANYWHERE:
                victim = running.pods[dice.choice(sorted(running.pods))]
                await asyncio.sleep(dice.uniform(0, 0.5))  # the moment is what is drawn
                await asyncio.to_thread(victim.kill)
                await asyncio.to_thread(victim.start)
            elif kill == DOOR:
                await kill_at_the_kafka_door(running, raw)
            else:
                await kill_under_load(running, kill)
        await edge.more()
        await direct.more()
    await running.settled(edge, direct, raw, deadline_s=120)
    answered = {journal.subject: len(journal.answered) for journal in (edge, direct, raw)}
    print(f"{len(kills)} kills; answered: {answered}")


async def test_purges_that_are_killed_again_and_again_lose_nothing(running: Plant) -> None:
    journal = running.journal("purges", running.pods["edge"])
    for _ in range(PURGES):
        await journal.send(200)
        await running.settled(journal)
        await kill_before_a_purge(running)
