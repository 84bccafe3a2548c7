"""An aggregator that is frozen until others have its partitions, wherever it stands, and then wakes.

insert    in the middle of sending the identities: Postgres waits for the rest and may not take it for idle
a point   a failpoint of the batch: inside the open transaction, or right after it
"""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.aggregator.generations import keeper
from shared.domain.errors import DatabaseAway
from shared.runtime import failpoints
from tests.support.aggregators import BATCH
from tests.support.generations import aggregators, living
from tests.support.plant import Plant
from tests.support.pods import Pod
from tests.support.proxy import Proxy, proxied
from tests.support.waiting import eventually

PLACES = ("insert", *BATCH)
IDENTITIES = (struct.pack(">I", 2950), b"PGCOPY\n")  # an array of uuid, or a COPY: nothing else of a batch has them
# Session 6 s, 2 s to rebalance, two lock timeouts of 4 s and their pauses, and what a busy machine takes.
MOVES_AGAIN_S = 25.0


@asynccontextmanager
async def through_a_proxy(running: Plant, victim: Pod) -> AsyncIterator[Proxy]:
    """The pod is started again, on a way to Postgres that can be cut off; and at the end on the straight one."""
    direct = victim.env
    async with proxied(running.parts.database_url) as (proxy, url):
        await asyncio.to_thread(victim.kill)
        victim.env = {**direct, "DATABASE_URL": url}
        await asyncio.to_thread(victim.start)
        try:
            yield proxy
        finally:
            wake(victim, proxy)
            await asyncio.to_thread(victim.kill)
    victim.env = direct
    await asyncio.to_thread(victim.start)


async def freeze(running: Plant, victim: Pod, proxy: Proxy, place: str) -> None:
    """SIGSTOP exactly there. Needs traffic."""
    if place == "insert":
        proxy.hold(*IDENTITIES)
        await asyncio.wait_for(proxy.held.wait(), 20)
    else:
        failpoints.arm(running.points, place, victim.pid)
        assert await failpoints.held(running.points, place) == victim.pid
    os.kill(victim.pid, signal.SIGSTOP)


def wake(victim: Pod, proxy: Proxy) -> None:
    os.kill(victim.pid, signal.SIGCONT)
    proxy.go_on()


async def everything_moves(running: Plant) -> float:
    """Until every partition has moved on and the epoch lock could be had exclusively; how many seconds that took."""
    began, before = time.monotonic(), running.offsets()

    async def standing() -> set[int]:
        now = running.offsets()
        return {partition for partition in before if now[partition] == before[partition]}

    await eventually(standing, lambda found: not found, MOVES_AGAIN_S)
    async with aggregators(running.parts) as database:

        async def rolled() -> bool:
            try:
                return await keeper.roll(database, (await living(database))[-1].id) is not None
            except DatabaseAway:  # the lock is not free: as whoever rolls, try again
                return False

        await eventually(rolled, deadline_s=MOVES_AGAIN_S)
    return time.monotonic() - began
