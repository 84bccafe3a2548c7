"""No disk is ever filled, and what was answered "yes" before is never the price."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared.spool import guard
from shared.spool.errors import SpoolFull
from shared.spool.forward import Forwarder
from shared.spool.purge import purge_once
from shared.spool.store import Spool, opened
from tests.support.spool import MemoryLog, message, messages, registered, settings, unsent_numbers
from tests.support.waiting import eventually

MIB = 1024 * 1024


async def append_until_full(spool: Spool, size: int) -> int:
    """How many events were accepted before the spool refused."""
    accepted = 0
    with pytest.raises(SpoolFull):
        while accepted < 100_000:
            await spool.append(messages(accepted, 10, size=size))
            accepted += 10
    return accepted


async def purge_everything(spool: Spool, log: MemoryLog) -> int:
    async def positions() -> dict[tuple[str, int], int]:
        return log.positions()

    return (await purge_once(spool, positions, datetime.now(UTC) + timedelta(days=8))).events


async def forward_everything(spool: Spool, log: MemoryLog) -> None:
    while await Forwarder(spool, log.send).forward_once():
        pass


def look_again(spool: Spool) -> None:
    """The guard looks at the disk four times a second; a test does not wait for that."""
    spool._guard._looked_at = float("-inf")


async def test_it_sheds_at_85_percent_and_takes_again_after_the_purge(tmp_path: Path) -> None:
    spool = await registered(settings(tmp_path, spool_cap_bytes=4 * MIB))
    accepted = await append_until_full(spool, 2_000)
    assert (await spool.state()).accepted_total == accepted
    assert accepted * 2_000 > 3 * MIB
    assert spool._file.used_bytes <= 0.85 * 4 * MIB + 100_000

    log = MemoryLog()
    await forward_everything(spool, log)
    assert await purge_everything(spool, log) == accepted == len(log.numbers())
    await spool.append(messages(accepted, 10))
    await spool.close()


async def test_a_commit_that_finds_no_room_fails_every_caller_and_costs_nothing_accepted(tmp_path: Path) -> None:
    """The wall behind the guard: SQLite itself refuses above `max_page_count`."""
    spool = await registered(settings(tmp_path, spool_cap_bytes=MIB, spool_shed_percent=95))
    await spool.append(messages(0, 10))
    spool._guard.admit = lambda *_: None  # type: ignore[method-assign]
    outcomes = await asyncio.gather(
        *(spool.append([message(100 + number, size=200_000)]) for number in range(10)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [SpoolFull] * 10
    assert await unsent_numbers(spool) == list(range(10))
    await spool.append(messages(10, 10))
    rows = await spool.unsent(0, 10**6)
    assert [row.first_sequence for row in rows] == [1, 11]
    assert (await spool.state()).accepted_total == 20
    await spool.close()


async def test_nothing_is_taken_while_others_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = await registered(settings(tmp_path, spool_min_free_bytes=MIB))
    free = [2 * MIB]
    monkeypatch.setattr(guard, "free_bytes", lambda path: free[0])
    monkeypatch.setattr(guard, "LOOK_AGAIN_S", -1.0)
    await spool.append(messages(0, 10))
    free[0] = MIB - 1
    with pytest.raises(SpoolFull, match="SPOOL_MIN_FREE_BYTES"):
        await spool.append(messages(10, 1))
    free[0] = 2 * MIB
    await spool.append(messages(10, 1))
    free[0] = MIB + spool._file.log_bytes  # copying the log into the file will take as much
    with pytest.raises(SpoolFull):
        await spool.append(messages(11, 1))
    assert await unsent_numbers(spool) == list(range(11))
    await spool.close()


async def test_what_waits_for_a_slow_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_QUEUED_BYTES", 100_000)
    spool = await registered(settings(tmp_path))
    outcomes = await asyncio.gather(
        *(spool.append([message(number, size=30_000)]) for number in range(5)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [type(None)] * 3 + [SpoolFull] * 2
    assert await unsent_numbers(spool) == [0, 1, 2]
    await spool.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"tmpfs cannot be mounted: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_a_disk_that_the_spool_itself_has_filled_empties_without_help(small_disk: Path) -> None:
    spool = await registered(settings(small_disk))
    accepted = await append_until_full(spool, 3_000)
    assert accepted > 100
    log = MemoryLog()
    await forward_everything(spool, log)
    assert log.numbers() == list(range(accepted))
    assert await purge_everything(spool, log) == accepted
    look_again(spool)
    await spool.append(messages(accepted, 10))
    await spool.close()
    async with opened(settings(small_disk), "test") as again:
        assert await unsent_numbers(again) == list(range(accepted, accepted + 10))


async def test_a_disk_filled_by_others_stops_acceptance_and_acks_wait_in_memory_until_there_is_room(
    small_disk: Path,
) -> None:
    spool = await registered(settings(small_disk))
    for call in range(50):
        await spool.append(messages(call * 10, 10, size=3_000))
    with pytest.raises(OSError, match="No space left"), (small_disk / "ballast").open("wb", buffering=0) as file:
        while file.write(b"x" * 4096) == 4096:
            pass
    look_again(spool)
    with pytest.raises(SpoolFull):
        await spool.append(messages(500, 10))
    with pytest.raises(SpoolFull):  # also without the guard in front
        await spool._write(lambda file: file.append(messages(500, 1000, size=3_000)))

    log, stop = MemoryLog(), asyncio.Event()
    forwarding = asyncio.ensure_future(Forwarder(spool, log.send).run(stop))
    await eventually(_done(lambda: len(log.numbers()) == 500))
    await asyncio.to_thread(subprocess.run, ["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
    await eventually(_done(lambda: spool.unsent_events == 0))
    look_again(spool)
    await spool.append(messages(500, 10))
    stop.set()
    await forwarding
    assert log.numbers() == list(range(510))
    await spool.close()


def _done(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def probe() -> bool:
        return condition()

    return probe


async def test_a_limit_on_the_size_of_files_is_a_full_spool(tmp_path: Path) -> None:
    spool = await registered(settings(tmp_path))
    await spool.close()
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.spool_process",
        "limited",
        str(tmp_path / "spool.db"),
        str(2 * MIB),
        stdout=subprocess.PIPE,
    )
    out, _ = await child.communicate()
    accepted = int(out)
    assert accepted > 100
    async with opened(settings(tmp_path), "test") as again:
        assert await unsent_numbers(again) == list(range(accepted))
