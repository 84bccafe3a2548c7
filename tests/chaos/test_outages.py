"""The broker is away for a minute, in every way there is, and comes and goes for minutes, under load."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from tests.support.broker import Broker
from tests.support.outages import Outage, assert_as_promised, back, disk_full, frozen, killed, outage, start_both
from tests.support.plant import Plant

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

OUTAGE_S = 60.0
FLAPS = 12


@pytest.fixture(scope="module")
def running(on_broker: Plant) -> Iterator[Plant]:
    start_both(on_broker)
    yield on_broker


@pytest.mark.parametrize("begin", [killed, frozen, disk_full], ids=lambda begin: begin.__name__)
async def test_a_minute_without_the_broker(running: Plant, broker: Broker, begin: Outage) -> None:
    during = await outage(running, broker, begin.__name__, begin, OUTAGE_S)
    assert_as_promised(during, least=50)
    print(
        f"{begin.__name__}: {OUTAGE_S:g} s, answers meanwhile { ({pod: dict(found) for pod, found in during.items()}) }"
    )


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_broker_that_comes_and_goes_while_pods_are_replaced(running: Plant, broker: Broker, seed: int) -> None:
    """Pods with a spool die for ever in the middle of it; another one takes over the disk."""
    dice = random.Random(seed)
    spool = str(running.home / f"flap-{seed}.sqlite3")

    def next_pod(number: int) -> str:
        pod = running.spooling(f"flap-{seed}-{number}", SPOOL_PATH=spool, INGEST_KEY_CACHE=f"{spool}.catalogue")
        return pod.start().url

    plain = running.journal(f"plain-{seed}", running.pods["plain"])
    moving = running.journal(f"moving-{seed}", running.pods["plain"])
    moving.url = await asyncio.to_thread(next_pod, 0)
    async with plain.load(patience_s=300), moving.load(patience_s=300):
        await moving.more(500)
        for number in range(1, FLAPS + 1):
            await dice.choice([killed, frozen])(broker)
            await asyncio.sleep(dice.uniform(0.5, 5))
            await asyncio.to_thread(running.pods[f"flap-{seed}-{number - 1}"].kill)
            if dice.random() < 0.5:
                await back(broker)
            moving.url = await asyncio.to_thread(next_pod, number)
            await moving.more()
            await back(broker)
            await asyncio.sleep(dice.uniform(0, 2))
        await plain.more(deadline_s=120)
    await running.settled(plain, moving, deadline_s=180)
    print(f"{FLAPS} outages and pods; answered: {len(plain.answered)} plain, {len(moving.answered)} moving")
