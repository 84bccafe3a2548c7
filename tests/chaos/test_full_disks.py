"""Real disks of a few megabytes that fill up under load, and get room again."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.stack import Stack
from tests.support.broker import Broker, private_broker
from tests.support.disks import Disk, needs_root, small_disk
from tests.support.outages import back, start_both
from tests.support.plant import Plant, plant
from tests.support.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900), needs_root]

BROKER_MB, SPOOL_MB, ROOM_MB = 48, 8, 1024


@pytest.fixture(scope="module")
def disk() -> Iterator[Disk]:
    with small_disk(Path(tempfile.mkdtemp(prefix="khata-small-")) / "home", BROKER_MB) as made:
        yield made


@pytest.fixture(scope="module")
def small_broker(disk: Disk, stack: Stack) -> Iterator[Broker]:
    with private_broker(stack.addresses.database_url, disk.path) as made:
        yield made


@pytest.fixture(scope="module")
def running(
    small_broker: Broker, stack: Stack, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Plant]:
    home = tmp_path_factory.mktemp("plant")
    with plant(home, small_broker.bootstrap, stack.addresses.database_url, template_database) as made:
        start_both(made)
        yield made


async def test_a_broker_that_fills_its_disk(running: Plant, small_broker: Broker, disk: Disk) -> None:
    journals = [running.journal(f"full-{name}", running.pods[name]) for name in ("plain", "spooling")]
    for journal in journals:
        journal.padding_bytes = 2_000
    plain, spooling = journals

    async def ended() -> bool:
        return small_broker.ended()

    async with plain.load(patience_s=300), spooling.load(patience_s=300):
        await eventually(ended, deadline_s=120)
        spooled = len(spooling.answered)
        await spooling.more(500)
        await asyncio.to_thread(disk.resize, ROOM_MB)
        await back(small_broker)
        await plain.more(deadline_s=120)
        assert len(spooling.answered) > spooled
    assert set(spooling.statuses) == {202}
    await running.settled(*journals, deadline_s=120)
    print(f"answered: {len(plain.answered)} plain, {len(spooling.answered)} with a spool")


async def test_a_spool_that_fills_its_disk_and_one_whose_disk_others_fill(
    running: Plant, small_broker: Broker, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "spool", SPOOL_MB) as its_disk:
        pod = running.spooling("small", SPOOL_PATH=str(its_disk.path / "spool.sqlite3"))
        await asyncio.to_thread(pod.start)
        journal = running.journal("small", pod, padding_bytes=2_000)
        small_broker.pause()
        while await journal.once() == 202:
            pass
        assert journal.statuses[503] == 1 and len(journal.answered) > 500
        small_broker.resume()
        await journal.send()
        await running.settled(journal)

        await asyncio.to_thread(its_disk.resize, ROOM_MB)
        small_broker.pause()
        assert await journal.once() == 202
        await asyncio.to_thread(its_disk.resize, SPOOL_MB)
        await asyncio.to_thread(its_disk.fill)

        async def refused() -> bool:
            return await journal.once() == 503

        await eventually(refused)
        small_broker.resume()
        await asyncio.to_thread(its_disk.resize, ROOM_MB)
        await journal.send()
        await running.settled(journal, deadline_s=60)
        await asyncio.to_thread(pod.kill)
