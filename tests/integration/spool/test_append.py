"""Appending: durable or an error, shared commits, and who may."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared.domain.errors import Misconfigured, Rejected
from shared.kafka.producer import MAX_RECORD_BYTES
from shared.spool import file as spool_file
from shared.spool.encoding import fingerprint
from shared.spool.errors import SpoolBroken, SpoolClosed, SpoolNotRegistered
from shared.spool.store import Spool, opened
from tests.support.spool import all_unsent, message, messages, registered, settings, unsent_numbers


async def test_what_was_appended_is_there_after_a_restart_in_order_and_without_gaps(tmp_path: Path) -> None:
    spool = await registered(settings(tmp_path))
    given = [messages(0, 3), messages(3, 1), messages(4, 6)]
    for call in given:
        await spool.append(call)
    before = await spool.state()
    await spool.close()

    async with opened(settings(tmp_path), "test") as again:
        rows = await all_unsent(again)
        assert [m for row in rows for m in row.messages] == [m for call in given for m in call]
        assert [row.first_sequence for row in rows] == [1, 4, 5]
        after = await again.state()
        assert (after.spool_id, after.accepted_total, after.unsent_events) == (before.spool_id, 10, 10)
        assert after.fingerprint == tuple(fingerprint(m for call in given for m in call)) == before.fingerprint
        assert after.oldest_unsent_at == before.oldest_unsent_at


async def test_callers_of_the_same_moment_share_a_commit(tmp_path: Path) -> None:
    spool = await registered(settings(tmp_path))
    await asyncio.gather(*(spool.append([message(number)]) for number in range(200)))
    rows = await all_unsent(spool)
    assert len(rows) < 20
    assert sorted(await unsent_numbers(spool)) == list(range(200))
    await spool.close()


async def test_a_large_call_is_cut_into_rows_that_can_be_read_one_by_one(tmp_path: Path) -> None:
    spool = await registered(settings(tmp_path))
    await spool.append(messages(0, 12_000))
    await spool.append(messages(12_000, 9, size=900_000))
    rows = await all_unsent(spool)
    assert [len(row.messages) for row in rows] == [5000, 5000, 2000, 2, 2, 2, 2, 1]
    assert await unsent_numbers(spool) == list(range(12_009))
    assert len(await spool.unsent(0, 5_001)) == 2
    await spool.close()


async def test_it_is_on_the_disk_when_append_returns(tmp_path: Path) -> None:
    """The log holds it although nothing was closed; that the commit fsyncs is SQLite's `synchronous = FULL`."""
    spool = await registered(settings(tmp_path))
    await spool.append(messages(0, 5))
    other = sqlite3.connect(tmp_path / "spool.db")
    assert other.execute("SELECT sum(event_count) FROM batch").fetchone() == (5,)
    other.close()
    pragmas = {name: spool._file._pragma(name) for name in ("synchronous", "fullfsync", "wal_autocheckpoint")}
    assert pragmas == {"synchronous": 2, "fullfsync": 1, "wal_autocheckpoint": 0}
    await spool.close()


async def test_a_spool_that_kafka_never_heard_of_accepts_nothing(tmp_path: Path) -> None:
    async with opened(settings(tmp_path), "test") as spool:
        with pytest.raises(SpoolNotRegistered):
            await spool.append(messages(0, 1))
        await spool.remember_registered("spools.v1")
        await spool.append(messages(0, 1))
    async with opened(settings(tmp_path), "test") as again:
        await again.append(messages(1, 1))
        assert await unsent_numbers(again) == [0, 1]


async def test_a_retired_spool_accepts_nothing_and_one_with_unsent_events_cannot_retire(tmp_path: Path) -> None:
    full = await registered(settings(tmp_path))
    await full.append(messages(0, 1))
    with pytest.raises(SpoolNotRegistered, match="1 unsent"):
        await full.retire()
    await full.append(messages(1, 1))
    await full.close()

    empty = await registered(settings(tmp_path, spool_path=tmp_path / "other.db"))
    await empty.retire()
    with pytest.raises(SpoolNotRegistered):
        await empty.append(messages(0, 1))
    assert (await empty.state()).retired
    await empty.close()


async def test_a_file_has_one_owner(tmp_path: Path) -> None:
    async with opened(settings(tmp_path), "test"):
        with pytest.raises(Misconfigured, match=r"spool\.db is owned by a running process"):
            await Spool.open(settings(tmp_path), "second")
    async with opened(settings(tmp_path), "second"):
        pass


async def test_a_folder_that_is_missing_is_not_made_it_may_be_a_disk_that_is_not_mounted(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"SPOOL_PATH .*gone/spool\.db.*No such file"):
        await Spool.open(settings(tmp_path / "gone"), "test")
    assert not (tmp_path / "gone").exists()


async def test_a_disk_that_fails_to_make_it_durable_is_never_trusted_again(tmp_path: Path) -> None:
    """After a failed fsync the kernel may have dropped the pages: a later success would prove nothing."""
    spool = await registered(settings(tmp_path))
    await spool.append(messages(0, 3))
    spool._file._connection = FailingCommit(spool._file._connection)  # type: ignore[assignment]
    outcomes = await asyncio.gather(spool.append(messages(3, 1)), spool.append(messages(4, 1)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [SpoolBroken] * 2
    with pytest.raises(SpoolBroken, match="SQLITE_IOERR_FSYNC"):
        await spool.append(messages(5, 1))
    await spool.close()
    async with opened(settings(tmp_path), "test") as again:
        assert await unsent_numbers(again) == [0, 1, 2]


class FailingCommit:
    """A connection whose first commit meets a failing fsync."""

    def __init__(self, real: sqlite3.Connection) -> None:
        self._real, self._failed = real, False

    def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        if statement == "COMMIT" and not self._failed:
            self._failed = True
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
            raise error
        return self._real.execute(statement, *values)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


async def test_closing_finishes_what_was_taken_and_refuses_the_rest(tmp_path: Path) -> None:
    spool = await registered(settings(tmp_path))
    taken = asyncio.ensure_future(spool.append(messages(0, 10)))
    await asyncio.sleep(0)
    await spool.close()
    await taken
    with pytest.raises(SpoolClosed):
        await spool.append(messages(10, 1))
    async with opened(settings(tmp_path), "test") as again:
        assert await unsent_numbers(again) == list(range(10))


async def test_a_caller_that_went_away_harms_nobody_in_its_group(tmp_path: Path) -> None:
    spool = await registered(settings(tmp_path))
    gone, stays = (asyncio.ensure_future(spool.append([message(number)])) for number in (0, 1))
    await asyncio.sleep(0)
    gone.cancel()
    await stays
    assert await unsent_numbers(spool) == [0, 1]
    await spool.close()


async def test_a_record_kafka_would_never_take_is_refused_at_once(tmp_path: Path) -> None:
    spool = await registered(settings(tmp_path))
    with pytest.raises(Rejected, match="at most"):
        await spool.append([message(0, size=MAX_RECORD_BYTES)])
    assert (await spool.state()).accepted_total == 0
    await spool.close()


async def test_a_statement_covers_all_that_is_stamped_before_it_even_when_the_clock_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = await registered(settings(tmp_path))
    state = await spool.state()
    monkeypatch.setattr(spool_file.time, "time_ns", lambda: 1_000_000)
    await spool.append(messages(0, 1))
    later = await spool.state()
    assert later.oldest_unsent_at is not None
    assert state.as_of <= later.oldest_unsent_at <= later.as_of
    assert not later.has_unsent_before(state.as_of)
    assert later.has_unsent_before(datetime(2999, 1, 1, tzinfo=UTC))
    await spool.close()
    # and after a restart with the same wrong clock
    async with opened(settings(tmp_path), "test") as again:
        assert (await again.state()).as_of >= later.oldest_unsent_at
