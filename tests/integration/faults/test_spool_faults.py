"""A spool that is full, shared by mistake, taken over, cut, or stopped while the broker does not answer.

Each test has a pod and a spool of its own; the broker is frozen, which costs nothing and is the worse kind of away.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared.spool.known import known_spools
from shared.spool.schema import PAGE_BYTES
from tests.conftest import ROOT
from tests.support.broker import Broker
from tests.support.journal import Journal
from tests.support.plant import Plant
from tests.support.pods import Pod
from tests.support.waiting import eventually

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def running(on_broker: Plant) -> Iterator[Plant]:
    on_broker.pod("aggregator", "aggregator").start()
    yield on_broker


@asynccontextmanager
async def frozen(broker: Broker) -> AsyncIterator[None]:
    broker.pause()
    try:
        yield
    finally:
        broker.resume()


async def until_refused(journal: Journal, most_calls: int = 200) -> int | None:
    """Calls of 10 events until one is not accepted; its status."""
    for _ in range(most_calls):
        if (status := await journal.once()) != 202:
            return status
    raise AssertionError(f"still accepting after {most_calls} calls")


async def accepted_again(journal: Journal, deadline_s: float = 20.0) -> None:
    async def status() -> int | None:
        return await journal.once(1)

    await eventually(status, lambda found: found == 202, deadline_s)


async def spools(running: Plant, instance: str) -> list[dict[str, Any]]:
    """What `khata spools list` says of the spool that this instance spoke for last."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "cli", "spools", "list", "--output", "json"],
        env=os.environ | running.parts.env,
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [row for row in json.loads(done.stdout) if row["instance"] == instance]


async def test_a_spool_at_its_cap_sheds_and_takes_again_once_it_is_drained(running: Plant, broker: Broker) -> None:
    """At an edge, so that nothing but the spool takes events; its week of keeping yields to the need for room."""
    pod = await asyncio.to_thread(running.spooling("cap", INGEST_ACCEPT="spool", SPOOL_CAP_BYTES=str(MIB)).start)
    journal = running.journal("cap", pod, padding_bytes=2_000)
    async with frozen(broker):
        assert await until_refused(journal) == 503
        assert len(journal.answered) * 2_000 > MIB // 2
        assert [text and int(text) > 0 for text in journal.retry_after] == [True]
        assert await journal.once() == 503
    await accepted_again(journal)
    await running.settled(journal)


async def test_a_spool_whose_disk_is_full_refuses_and_takes_again(running: Plant, broker: Broker) -> None:
    pod = await asyncio.to_thread(running.spooling("disk").start)
    journal = running.journal("disk", pod, padding_bytes=2_000)
    async with frozen(broker):
        assert await journal.once() == 202
        await asyncio.to_thread(pod.limit_files, 512 * 1024)
        assert await until_refused(journal) == 503
        assert len(journal.answered) > 10
        await asyncio.to_thread(pod.limit_files, None)
        await accepted_again(journal)
    await running.settled(journal)


async def test_a_second_process_on_one_spool_is_refused_and_the_first_goes_on(running: Plant, broker: Broker) -> None:
    path = str(running.spool("shared"))
    first = await asyncio.to_thread(running.spooling("shared").start)
    journal = running.journal("shared", first)
    async with frozen(broker):
        assert await journal.once(50) == 202
        second = running.spooling("intruder", SPOOL_PATH=path).start(wait=False)
        assert await asyncio.to_thread(second.wait) == 78
        assert "is owned by a running process" in second.log.read_text()
        assert await journal.once(50) == 202
    await running.settled(journal)
    assert len(journal.answered) == 100


@pytest.mark.parametrize("successor", ["replaced-0", "replaced-1"])
async def test_whoever_takes_over_the_disk_of_a_dead_pod_forwards_all_of_it(
    running: Plant, broker: Broker, successor: str
) -> None:
    spool = str(running.home / f"disk-for-{successor}.sqlite3")
    first = await asyncio.to_thread(running.spooling("replaced-0", SPOOL_PATH=spool).start)
    journal = running.journal(f"to-{successor}", first)
    async with frozen(broker):
        for _ in range(5):
            assert await journal.once(20) == 202
        await asyncio.to_thread(first.kill)  # for ever
    other = await asyncio.to_thread(running.spooling(successor, SPOOL_PATH=spool).start)
    journal.url = other.url
    await journal.send(20)
    await running.settled(journal)

    async def said() -> list[tuple[int, int]]:
        states = (await known_spools(running.parts.kafka)).values()
        return [(state.unsent_events, state.accepted_total) for state in states if state.instance == successor]

    await eventually(said, lambda found: (0, 100) in found)
    [row] = [row for row in await spools(running, successor) if row["accepted"] == 100]
    assert (row["unsent"], row["lost"], row["retired"]) == (0, 0, False)
    await asyncio.to_thread(other.kill)


async def test_a_cut_log_loses_what_was_cut_names_how_much_and_forwards_the_rest(
    running: Plant, broker: Broker
) -> None:
    pod = await asyncio.to_thread(running.spooling("cut").start)
    journal = running.journal("cut", pod)
    async with frozen(broker):
        for _ in range(10):
            assert await journal.once(10) == 202
        await asyncio.to_thread(pod.kill)
    log = running.spool("cut").with_name("cut.sqlite3-wal")
    os.truncate(log, log.stat().st_size - 6 * (PAGE_BYTES + 24))
    await asyncio.to_thread(pod.start)
    await journal.send(10)

    async def lost() -> int:
        states = (await known_spools(running.parts.kafka)).values()
        return sum(state.lost_total for state in states if state.instance == "cut")

    lost_events = await eventually(lost)
    assert 0 < lost_events < 100
    [row] = await spools(running, "cut")
    assert row["lost"] == lost_events
    missing = lost_events

    async def counted_ids() -> set[str]:
        return set((await running.archive())["cut"][0])

    kept = await eventually(counted_ids, lambda ids: len(ids) >= 110 - missing)
    gone = journal.answered.keys() - kept
    assert gone == {f"cut-{number}" for number in range(100 - missing, 100)}  # the newest, as many as it says
    for id in gone:
        del journal.answered[id]
    await running.settled(journal)


async def test_pods_that_are_stopped_while_the_broker_hangs_end_cleanly_and_keep_what_they_have(
    running: Plant, broker: Broker
) -> None:
    pod, plain = running.spooling("stopped"), running.pod("plain", INGEST_ACK_DEADLINE_S="0.5")
    await asyncio.to_thread(running.start, pod, plain)
    journal, other = running.journal("stopped", pod), running.journal("plain", plain)
    await other.send()
    async with frozen(broker):
        for _ in range(5):
            assert await journal.once(20) == 202
        assert await other.once() == 503
        pods = [pod, plain, running.pods["aggregator"]]
        codes = await asyncio.gather(*(asyncio.to_thread(each.terminate) for each in pods))
        assert codes == [0, 0, 0], [each.log.read_text()[-1000:] for each in pods]
    await asyncio.to_thread(running.start, *pods)
    await running.settled(journal, other)
    assert (len(journal.answered), len(other.answered)) == (100, 10)


async def test_a_pod_with_a_copy_of_the_catalogue_starts_and_accepts_while_the_broker_is_away(
    running: Plant, broker: Broker
) -> None:
    copy = running.home / "catalogue.json"
    pod: Pod = await asyncio.to_thread(running.spooling("cached", INGEST_KEY_CACHE=str(copy)).start)
    journal = running.journal("cached", pod)
    await journal.send()

    async def kept() -> bool:
        return copy.exists()

    await eventually(kept)
    async with frozen(broker):
        await asyncio.to_thread(pod.kill)
        await asyncio.to_thread(pod.start)
        for _ in range(5):
            assert await journal.once(20) == 202
    await running.settled(journal)
    assert len(journal.answered) == 110
