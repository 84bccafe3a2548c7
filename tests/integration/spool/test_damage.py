"""A damaged file is told, never taken for a new or a smaller one."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.domain.errors import Misconfigured
from shared.spool.errors import SpoolBroken
from shared.spool.schema import PAGE_BYTES
from shared.spool.store import Spool, opened
from tests.support.spool import messages, registered, settings, unsent_numbers

FRAME_BYTES = PAGE_BYTES + 24
FILES = ("spool.db", "spool.db-wal", "spool.db-owner")


async def crashed(tmp_path: Path, calls: int = 5) -> Path:
    """What is on the disk when a process dies after `calls` commits of 10 events, nothing copied from the log."""
    alive, dead = tmp_path / "alive", tmp_path / "dead"
    alive.mkdir()
    dead.mkdir()
    spool = await registered(settings(alive))
    for call in range(calls):
        await spool.append(messages(call * 10, 10))
    for name in FILES:
        shutil.copyfile(alive / name, dead / name)
    await spool.close()
    return dead


async def test_a_whole_log_loses_nothing(tmp_path: Path) -> None:
    async with opened(settings(await crashed(tmp_path)), "test") as spool:
        assert await unsent_numbers(spool) == list(range(50))
        assert (await spool.state()).lost_total == 0


def cut(log: bytes) -> bytes:
    return log[: -FRAME_BYTES // 2]


def overwritten_tail(log: bytes) -> bytes:
    return log[:-100] + b"\xff" * 100


def overwritten_head(log: bytes) -> bytes:
    return b"\x00" * 32 + log[32:]


def all_garbage(log: bytes) -> bytes:
    return bytes(reversed(log))


@pytest.mark.parametrize(
    ("damage", "left"), [(cut, 40), (overwritten_tail, 40), (overwritten_head, None), (all_garbage, None)]
)
async def test_a_damaged_log_keeps_what_was_committed_before_the_damage_and_names_the_rest(
    tmp_path: Path, damage: Callable[[bytes], bytes], left: int | None
) -> None:
    dead = await crashed(tmp_path)
    log = dead / "spool.db-wal"
    log.write_bytes(damage(log.read_bytes()))
    spool = await Spool.open(settings(dead), "test")
    state = await spool.state()
    kept = 0 if left is None else left
    assert (state.accepted_total, state.lost_total) == (kept, 50 - kept)
    assert await unsent_numbers(spool) == list(range(kept))
    assert len(list(dead.glob("spool.db-wal.damaged-*"))) == 1

    # The numbers of the lost are never given again; a spool whose registration was lost registers again.
    await spool.remember_registered("spools.v1")
    await spool.append(messages(50, 10))
    assert [row.first_sequence for row in await spool.unsent(0, 10**6)][-1] == 51
    await spool.close()
    async with opened(settings(dead), "test") as again:
        assert await unsent_numbers(again) == [*range(kept), *range(50, 60)]
        assert (await again.state()).lost_total == 50 - kept


async def test_a_log_cut_after_it_was_copied_into_the_file_is_never_opened_as_if_it_fitted(tmp_path: Path) -> None:
    """Old pages of a cut log over newer ones of the file: SQLite itself does not see that."""
    alive, dead = tmp_path / "alive", tmp_path / "dead"
    alive.mkdir()
    dead.mkdir()
    spool = await registered(settings(alive))
    for call in range(200):
        await spool.append(messages(call * 10, 10, size=1_000))
    spool._file.checkpoint(always=True)
    for name in FILES:
        shutil.copyfile(alive / name, dead / name)
    await spool.close()
    log = dead / "spool.db-wal"
    log.write_bytes(log.read_bytes()[: 32 + 101 * FRAME_BYTES])
    try:
        found = await Spool.open(settings(dead), "test")
    except (Misconfigured, SpoolBroken) as error:
        assert "keep" in str(error).lower()
        return
    state = await found.state()
    numbers = await unsent_numbers(found)
    await found.close()
    assert state.lost_total == 2000 - len(numbers) > 0
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("left", [b"", None])
async def test_a_file_that_is_gone_is_not_a_new_spool(tmp_path: Path, left: bytes | None) -> None:
    dead = await crashed(tmp_path)
    (dead / "spool.db").unlink()
    if left is not None:
        (dead / "spool.db").write_bytes(left)
    with pytest.raises(Misconfigured, match="gone or empty.*restore the file"):
        await Spool.open(settings(dead), "test")
    assert (dead / "spool.db-wal").stat().st_size > 0


async def test_a_closed_spool_whose_file_is_gone_is_missed_as_well(tmp_path: Path) -> None:
    spool = await registered(settings(tmp_path))
    await spool.append(messages(0, 1))
    await spool.close()
    (tmp_path / "spool.db").unlink()
    with pytest.raises(Misconfigured, match="gone or empty"):
        await Spool.open(settings(tmp_path), "test")


async def test_garbage_and_files_of_others_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    path.write_bytes(b"garbage" * 10_000)
    with pytest.raises(Misconfigured, match="no SQLite file"):
        await Spool.open(settings(tmp_path), "test")
    assert path.read_bytes() == b"garbage" * 10_000

    path.unlink()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(Misconfigured, match="SQLite file but no spool"):
        await Spool.open(settings(tmp_path), "test")


async def test_a_file_cut_in_the_middle_is_told_with_what_to_do(tmp_path: Path) -> None:
    spool = await registered(settings(tmp_path))
    for call in range(20):
        await spool.append(messages(call * 10, 10, size=3_000))
    await spool.close()
    path = tmp_path / "spool.db"
    path.write_bytes(path.read_bytes()[: 4 * PAGE_BYTES])
    with pytest.raises((Misconfigured, SpoolBroken), match="keep it with its -wal"):
        await Spool.open(settings(tmp_path), "test")


async def test_a_flipped_bit_in_a_stored_row_stops_the_reader_and_is_never_forwarded(tmp_path: Path) -> None:
    spool = await registered(settings(tmp_path))
    await spool.append(messages(0, 3, size=30_000))
    await spool.close()
    path = tmp_path / "spool.db"
    content = bytearray(path.read_bytes())
    content[content.find((messages(1, 1, size=30_000)[0].value or b"")[1000:1040])] ^= 1
    path.write_bytes(content)
    async with opened(settings(tmp_path), "test") as again:
        with pytest.raises(SpoolBroken, match="row 1 does not have the checksum"):
            await again.unsent(0, 10)
