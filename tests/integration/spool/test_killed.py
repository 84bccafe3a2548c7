"""kill -9 at every point: what was answered "yes" is in Kafka or in the file, and goes on from there."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from shared.contracts.headers import SPOOL
from shared.contracts.topics import USAGE_EVENTS
from shared.kafka.producer import Producer
from shared.runtime import failpoints
from shared.spool.forward import Forwarder
from shared.spool.store import opened
from tests.conftest import Parts
from tests.support.kafka import read_topic
from tests.support.spool import TOPIC, MemoryLog, messages, registered, settings, unsent_numbers


async def child(tmp_path: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
    """A process with the spool `spool.db` whose failpoints are looked for in `tmp_path`."""
    what, *more = arguments
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.spool_process",
        what,
        str(tmp_path / "spool.db"),
        *more,
        stdout=PIPE,
        env={**os.environ, **(env or {}), "KHATA_FAILPOINTS_DIR": str(tmp_path)},
    )


async def kill(process: Process) -> list[int]:
    """SIGKILL; returns what it had printed."""
    process.send_signal(signal.SIGKILL)
    out, _ = await process.communicate()
    return [int(line) for line in out.split()]


async def made(tmp_path: Path, *calls: tuple[int, int], topic: str = TOPIC) -> None:
    spool = await registered(settings(tmp_path))
    for first, count in calls:
        await spool.append(messages(first, count, topic=topic))
    await spool.close()


@pytest.mark.failpoints
@pytest.mark.parametrize(("point", "kept"), [("spool.append.before_commit", 10), ("spool.append.after_commit", 20)])
async def test_killed_around_the_commit(tmp_path: Path, point: str, kept: int) -> None:
    await made(tmp_path, (0, 10))
    failpoints.arm(tmp_path, point)
    process = await child(tmp_path, "append", "0", "5")
    await failpoints.held(tmp_path, point)
    assert await kill(process) == []  # nobody was told "yes"
    async with opened(settings(tmp_path), "test") as spool:
        assert await unsent_numbers(spool) == list(range(kept))
        state = await spool.state()
        assert (state.accepted_total, state.lost_total) == (kept, 0)
        await spool.append(messages(kept, 1))


async def test_killed_anywhere_while_appending_nothing_that_was_answered_is_missing(tmp_path: Path) -> None:
    await made(tmp_path)
    answered = 0
    for round in range(3):
        process = await child(tmp_path, "append", "2000", "100000")
        assert process.stdout is not None
        for _ in range(50 + 37 * round):
            answered = int(await process.stdout.readline())
        answered = max([answered, *await kill(process)])
    async with opened(settings(tmp_path), "test") as spool:
        numbers = await unsent_numbers(spool)
        assert len(numbers) >= answered > 1000
        assert numbers == list(range(len(numbers)))
        assert (await spool.state()).lost_total == 0


@pytest.mark.failpoints
@pytest.mark.parametrize(("point", "times"), [("spool.forward.before_ack", 1), ("spool.forward.before_mark", 2)])
async def test_killed_while_forwarding_every_event_reaches_kafka_and_is_marked_once(
    tmp_path: Path, parts: Parts, point: str, times: int
) -> None:
    topic = parts.kafka.names.topic(USAGE_EVENTS)
    await made(tmp_path, (0, 40), (40, 60), topic=topic)
    failpoints.arm(tmp_path, point)
    process = await child(tmp_path, "forward", env=parts.env)
    await failpoints.held(tmp_path, point)
    await kill(process)

    async with opened(settings(tmp_path), "test") as spool:
        assert len(await unsent_numbers(spool)) == 100
        stop = asyncio.Event()
        stop.set()
        producer = Producer(parts.kafka, "test")
        await Forwarder(spool, producer.send).run(stop)
        await producer.stop()
        state = await spool.state()
        assert (state.unsent_events, state.fingerprint) == (0, state.forwarded_fingerprint)
        records = await read_topic(parts, topic)
        assert set(Counter(record.value for record in records).values()) == {times}
        assert {record.value for record in records} == {m.value for m in messages(0, 100)}
        # What is marked is where Kafka has it, and headers and keys came along.
        at = {(r.topic, r.partition, r.offset): r for r in records}
        marked = [place for _, places in await spool.places(0) for place in places]
        assert [at[place].value for place in marked if place] == [m.value for m in messages(0, 100)]
        assert {(r.key, tuple(r.headers)) for r in records} == {(b"p/alice", (("h", b"1"), (SPOOL, spool.id.encode())))}


@pytest.mark.failpoints("spool.purge.before_delete")
async def test_killed_before_a_purge_the_next_one_does_it(tmp_path: Path) -> None:
    spool, log = await registered(settings(tmp_path)), MemoryLog()
    await spool.append(messages(0, 10))
    await Forwarder(spool, log.send).forward_once()
    await spool.close()
    point = "spool.purge.before_delete"
    failpoints.arm(tmp_path, point)
    process = await child(tmp_path, "purge")
    await failpoints.held(tmp_path, point)
    await kill(process)
    async with opened(settings(tmp_path), "test") as again:
        assert [len(places) for _, places in await again.places(0)] == [10]
    assert await (await child(tmp_path, "purge")).wait() == 0
    async with opened(settings(tmp_path), "test") as again:
        assert await again.places(0) == []
        assert (await again.state()).accepted_total == 10


async def test_a_second_process_is_refused_while_the_first_lives_and_welcome_when_it_is_dead(tmp_path: Path) -> None:
    await made(tmp_path)
    point = "spool.append.before_commit"
    failpoints.arm(tmp_path, point)
    first = await child(tmp_path, "append", "0", "1")
    await failpoints.held(tmp_path, point)
    second = await child(tmp_path, "append", "0", "1")
    out, _ = await second.communicate()
    assert (second.returncode, out) == (1, b"")
    await kill(first)
    third = await child(tmp_path, "append", "0", "1")
    assert await third.communicate() == (b"10\n", None)
