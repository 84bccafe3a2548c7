"""The next batch is read and prepared while one is applied; whatever becomes of that one, each record counts once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from shared.domain.errors import DatabaseAway, Fenced
from shared.kafka.records import Batch
from tests.conftest import Parts
from tests.support.kafka import send
from tests.support.loops import Recorder, group_of, make_table, member
from tests.support.usage import opened
from tests.support.waiting import eventually


@dataclass
class Preparer(Recorder):
    """Remembers what was prepared; `when` is asked before each batch is applied."""

    prepared: list[Batch] = field(default_factory=list)
    applying: list[Batch] = field(default_factory=list)
    when: Callable[[Batch], Awaitable[None]] | None = None

    async def prepare(self, batch: Batch) -> None:
        self.prepared.append(batch)

    async def before(self, batch: Batch) -> None:
        self.applying.append(batch)
        assert any(batch is one for one in self.prepared), "it was prepared first"
        if self.when is not None:
            await self.when(batch)


@pytest.fixture
async def preparer(parts: Parts) -> AsyncIterator[Preparer]:
    make_table(parts)
    async with opened(parts.database_url, "khata_aggregator") as database:
        yield Preparer(database, group_of(parts))


VALUES = [b"%d" % number for number in range(40)]


async def _each_once(preparer: Preparer) -> None:
    rows = await eventually(preparer.applied, lambda rows: len(rows) >= len(VALUES), 20)
    assert sorted(int(value) for _, _, value in rows) == list(range(len(VALUES)))


async def test_the_next_batch_is_prepared_while_one_is_applied(parts: Parts, preparer: Preparer, topic: str) -> None:
    async def until_another_is_prepared(batch: Batch) -> None:
        if len(preparer.applying) == 1:
            await asyncio.wait_for(_until(lambda: len(preparer.prepared) > 1), 10)

    preparer.when = until_another_is_prepared
    await send(parts, topic, VALUES)
    async with member(parts, preparer, topic, max_records=10) as running:
        await _each_once(preparer)
        await running.end()


async def test_what_was_read_ahead_of_a_fenced_batch_is_dropped(parts: Parts, preparer: Preparer, topic: str) -> None:
    async def fenced_once_when_more_is_ready(batch: Batch) -> None:
        if len(preparer.applying) == 1:
            await asyncio.wait_for(_until(lambda: len(preparer.prepared) > 1), 10)
            raise Fenced("another owner was faster")

    preparer.when = fenced_once_when_more_is_ready
    await send(parts, topic, VALUES)
    async with member(parts, preparer, topic, max_records=10) as running:
        await _each_once(preparer)
        await running.end()
    assert preparer.applying[0].records == preparer.applying[1].records, "it was read again from its beginning"


async def test_a_batch_that_waits_for_the_database_keeps_its_place_before_what_is_ready(
    parts: Parts, preparer: Preparer, topic: str
) -> None:
    async def away_three_times(batch: Batch) -> None:
        if len(preparer.applying) <= 3:
            await asyncio.wait_for(_until(lambda: len(preparer.prepared) > 1), 10)
            raise DatabaseAway("the database is away")

    preparer.when = away_three_times
    await send(parts, topic, VALUES)
    async with member(parts, preparer, topic, max_records=10) as running:
        await _each_once(preparer)
        await running.end()
    assert all(one is preparer.applying[0] for one in preparer.applying[:4])
    assert len({id(one) for one in preparer.prepared}) == len(preparer.prepared), "each was prepared once"


async def test_a_read_ahead_that_fails_is_done_again(
    parts: Parts, preparer: Preparer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def until_the_next_was_tried(batch: Batch) -> None:
        if len(preparer.applying) == 1:
            await asyncio.wait_for(_until(lambda: tries > 1), 10)

    real, tries = preparer.prepare, 0

    async def prepare(batch: Batch) -> None:
        nonlocal tries
        tries += 1
        if tries == 2:
            raise DatabaseAway("the database is away")
        await real(batch)

    monkeypatch.setattr(preparer, "prepare", prepare)
    preparer.when = until_the_next_was_tried
    await send(parts, topic, VALUES)
    async with member(parts, preparer, topic, max_records=10) as running:
        await _each_once(preparer)
        await running.end()


async def test_a_batch_ends_at_its_bytes(parts: Parts, preparer: Preparer, topic: str) -> None:
    await send(parts, topic, VALUES)
    await send(parts, topic, [b"9" * 100_000] * 1_200)
    async with member(parts, preparer, topic, max_records=50_000, max_bytes=1_000_000) as running:
        await eventually(preparer.applied, lambda rows: len(rows) == len(VALUES) + 1_200, 30)
        await running.end()
    sizes = [sum(len(record.value or b"") for record in one.records) for one in preparer.applying]
    # Where records grow at once, one piece of reading (500 records) goes beyond the limit.
    assert sorted(sizes)[-2] <= 1_100_000
    assert max(sizes) <= 51_000_000


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.01)
