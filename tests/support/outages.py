"""What may become of a broker, and how it comes back: the same for the short runs and the long ones."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from tests.support.broker import Broker
from tests.support.plant import Plant
from tests.support.waiting import eventually

PRODUCERS = 2  # of each way of accepting

Outage = Callable[[Broker], Awaitable[None]]


async def killed(broker: Broker) -> None:
    await asyncio.to_thread(broker.kill)


async def frozen(broker: Broker) -> None:
    """Connections stand and nothing is answered."""
    broker.pause()


async def disk_full(broker: Broker) -> None:
    """Its log cannot grow any more; returns once the broker has ended over it. Needs load."""
    broker.fill_disk(16 * 1024)

    async def ended() -> bool:
        return broker.ended()

    await eventually(ended)


async def back(broker: Broker) -> None:
    """Whatever was done to it."""
    if broker.ended():
        await asyncio.to_thread(broker.start)
    else:
        broker.resume()


async def outage(
    plant: Plant, broker: Broker, name: str, begin: Outage, length_s: float
) -> dict[str, Counter[int | None]]:
    """Load on both ways of accepting, before, during and after; returns what was answered meanwhile, by pod.

    Everything is settled at the end: nothing answered is missing, nothing is counted twice.
    """
    journals = {pod: plant.journal(f"{name}-{pod}", plant.pods[pod]) for pod in ("plain", "spooling")}
    patience_s = length_s + 90  # a consumer whose coordination died gives up after 30 s, and is started again
    loads = [journal.load(PRODUCERS, patience_s) for journal in journals.values()]
    async with loads[0], loads[1]:
        for journal in journals.values():
            await journal.more()
        await begin(broker)
        before = {pod: journal.statuses.copy() for pod, journal in journals.items()}
        await asyncio.sleep(length_s)  # how long it lasts is what is tested, not something that is waited for
        during = {pod: journal.statuses - before[pod] for pod, journal in journals.items()}
        await back(broker)
        for journal in journals.values():
            await journal.more(deadline_s=patience_s)
    await plant.settled(*journals.values(), deadline_s=patience_s)
    return during


def assert_as_promised(during: dict[str, Counter[int | None]], *, least: int) -> None:
    """Without a spool nothing but 503 (or no answer), once what was acked before has been told; with one only 202."""
    assert during["plain"][202] <= PRODUCERS, during
    assert during["plain"].keys() <= {202, 503, None}, during
    assert during["plain"][503] >= least, during
    assert during["spooling"].keys() == {202}, during
    assert during["spooling"][202] >= least, during


def start_both(plant: Plant) -> None:
    """`plain` answers once Kafka has acked and 503 otherwise; `spooling` has a spool behind Kafka."""
    plant.start(
        plant.pod("plain", INGEST_ACK_DEADLINE_S="0.5"),
        plant.spooling("spooling"),
        plant.pod("aggregator", "aggregator"),
    )
