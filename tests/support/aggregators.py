"""Two aggregators on one topic that is fed without end, and what may be done to them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from devstack.processes import Child, Command, spawn
from shared.contracts.topics import USAGE_EVENTS
from shared.runtime import failpoints
from tests.support.feed import Feed, Outcome, judge
from tests.support.generations import grow_old
from tests.support.kills import kill_under_load
from tests.support.letters import ask
from tests.support.plant import Plant, plant
from tests.support.pods import Pod
from tests.support.waiting import eventually

BATCH = ("aggregator.batch.after_offsets", "aggregator.batch.before_commit", "aggregator.batch.after_commit")
WINDOWS = ("aggregator.windows.before_send", "aggregator.windows.before_mark")
GENERATION = (
    "aggregator.generation.before_roll",
    "aggregator.generation.before_count",
    "aggregator.filter.before_rename",
)
DROP = "aggregator.generation.before_drop"
REDRIVE = "aggregator.redrive.before_mark"
REDRIVEN = "20"  # letters of one redrive
KEEP_CLOSED = 4  # generations: nothing that is still sent again may stand in one that is dropped


@contextmanager
def aggregating(
    home: Path,
    bootstrap: str,
    owner_url: str,
    template: str | None = None,
    names: Sequence[str] = ("one", "two"),
    **env: str,
) -> Iterator[Plant]:
    """They run and are ready; small batches, so that there are many."""
    with plant(home, bootstrap, owner_url, template) as made:
        made.start(*(made.pod(name, "aggregator", **own(home) | env) for name in names))
        yield made


def own(home: Path) -> dict[str, str]:
    """Settings of an aggregator that works in small steps."""
    return {
        "AGGREGATOR_BATCH_WAIT_MS": "50",
        "AGGREGATOR_RECONCILE": "false",
        "AGGREGATOR_FILTER_DIR": str(home / "filters"),
    }


@asynccontextmanager
async def fed(running: Plant, feed: Feed, *, identities_dropped: bool = False, **flow: Any) -> AsyncIterator[None]:
    """Traffic for as long as the block lasts; then everything is applied and judged."""
    async with feed.flowing(**flow):
        yield
        await feed.more(100)
    await settled(running, feed, identities_dropped=identities_dropped)


async def settled(running: Plant, feed: Feed, *, deadline_s: float = 120.0, **judged: Any) -> Outcome:
    await running.applied(deadline_s)
    outcome = await judge(feed, **judged)
    print(outcome)
    return outcome


async def nothing_found(running: Plant) -> None:
    """Reconciliation agrees with the judge. Traffic has ended."""
    report = await ask(running.parts, "usage", "reconcile", "--from", "2026-10-01")
    assert report["findings"] == [] and len(report["checks"]) > 3


async def kill_at(running: Plant, point: str) -> None:
    """Whoever comes to the point first is killed there and started again. Needs traffic."""
    if point == REDRIVE:
        await _kill_a_redrive(running)
        return
    if point == DROP:
        await eventually(lambda: asyncio.to_thread(_outlive, running.parts.database_url), deadline_s=60)
    await kill_under_load(running, point)


def _outlive(database_url: str) -> int:
    """The oldest generations are older than any event that is taken, but for the last few; how many are."""
    with psycopg.connect(database_url) as owner:
        rows = owner.execute(
            "SELECT id FROM usage.generation WHERE identity_count IS NOT NULL AND detached_at IS NULL ORDER BY id"
        ).fetchall()
    old = rows[:-KEEP_CLOSED][:1]
    for (generation,) in old:
        grow_old(database_url, generation)
    return len(old)


async def _kill_a_redrive(running: Plant) -> None:
    """The operator's command is killed and given once more."""
    failpoints.arm(running.points, REDRIVE)
    killed = redriving(running)
    assert await failpoints.held(running.points, REDRIVE) == killed.pid
    killed.kill()
    again = redriving(running)
    assert await asyncio.to_thread(again.wait, 30) == 0, again.ended()


def redriving(running: Plant) -> Child:
    """`khata dead-letters redrive` of some letters, as a process."""
    argv = (sys.executable, "-m", "cli", "dead-letters", "redrive", "--limit", REDRIVEN, "--reason", "test", "--yes")
    env = {**os.environ, **running.pods["one"].env}
    return spawn(Command("redrive", argv, running.home / "redrive.log", env))


async def outages(running: Plant, feed: Feed, times: int, outage: Callable[[], Awaitable[None]]) -> None:
    """So many under traffic; each begins once every partition has gone on after the last."""
    async with fed(running, feed):
        await feed.more(200)
        for _ in range(times):
            await advanced(running)
            await outage()
        await advanced(running)


async def advanced(running: Plant, deadline_s: float = 90.0) -> None:
    """Until every partition has moved on from where it stands now. Needs traffic."""
    before = await eventually(_placed(running), lambda found: len(found) == USAGE_EVENTS.partitions, deadline_s)

    async def standing() -> set[int]:
        running.start_again()
        now = running.offsets()
        return {partition for partition in before if now[partition] == before[partition]}

    await eventually(standing, lambda found: not found, deadline_s)


def _placed(running: Plant) -> Callable[[], Awaitable[dict[int, int]]]:
    async def offsets() -> dict[int, int]:
        running.start_again()
        return running.offsets()

    return offsets


async def storm(running: Plant, seconds: float, every_s: float = 3.0) -> int:
    """Beside the two, a member comes or goes every so often: stopped and killed in turn. How many came."""
    guests: list[Pod] = []
    for beat in range(int(seconds / every_s)):
        if beat % 2 == 0:
            guest = running.pod(f"guest-{beat}", "aggregator", **own(running.home))
            guests.append(await asyncio.to_thread(guest.start, wait=False))
        else:
            await asyncio.to_thread(guests[-1].kill if beat % 4 == 1 else guests[-1].terminate)
        await asyncio.sleep(every_s)  # the beat is what is tested, not something that is waited for
    await asyncio.to_thread(guests[-1].kill)
    return len(guests)


async def letters_wait(running: Plant) -> None:
    """Until dead letters that cannot be sent wait in the outbox."""

    async def waiting() -> int:
        async with await psycopg.AsyncConnection.connect(running.parts.database_url) as owner:
            found = await owner.execute("SELECT count(*) FROM messaging.outbox WHERE published_at IS NULL")
            [(count,)] = await found.fetchall()
        return int(count)

    await eventually(waiting, lambda count: count >= 5)
