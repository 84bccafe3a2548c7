"""What cannot be subtracted is looked at again: minimum, maximum and latest of windows whose events were corrected."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from services.aggregator.corrections.dirty import Cleaned, clean_some
from shared.domain.errors import Retryable
from shared.domain.period import Month
from tests.support.catalogue import DOCUMENT
from tests.support.corrections import amend, clean, dirty, void
from tests.support.usage import NOON, TOPIC, Counting, catalogue_rows, counting, opened, seal_month, stamped

EXTREMES = [
    {"id": aggregation, "event_type": "gauge", "aggregation": aggregation, "value_path": "v"}
    for aggregation in ("min", "max", "latest")
]
OCTOBER = Month(2026, 10)


@pytest.fixture
async def gauges(database_url: str) -> Any:
    async with opened(database_url, "khata_catalogue") as database, database.transaction() as connection:
        await catalogue_rows(connection, DOCUMENT | {"meters": [*DOCUMENT["meters"], *EXTREMES]})
    async with counting(database_url) as count:
        yield count


def gauge(id: str, value: int, minute: int = 0, **more: Any) -> bytes:
    return stamped(id, data={"v": value}, type="gauge", time=NOON + timedelta(minutes=minute), **more)


async def extremes(count: Counting) -> tuple[Any, ...]:
    """(min, max, latest) of the gauges' windows."""
    rows = await count.rows(
        "SELECT meter_id, minimum, maximum, latest_value, latest_id FROM usage.window WHERE meter_id <> 'requests'"
    )
    found = {row[0]: row for row in rows}
    return found["min"][1], found["max"][2], found["latest"][3]


async def test_the_second_becomes_the_first_when_the_first_is_taken_back(gauges: Counting) -> None:
    await gauges.apply(gauge("1", 1), gauge("2", 9, 5), gauge("3", 4, 3), gauge("4", 5, 2))
    assert await extremes(gauges) == (1, 9, 9)
    await gauges.apply(void("v", "1"), void("w", "2"))
    assert await dirty(gauges) == 3
    assert await clean(gauges) == 3
    assert await extremes(gauges) == (4, 5, 4)
    assert await dirty(gauges) == 0


async def test_an_amend_of_the_latest_event_keeps_its_time(gauges: Counting) -> None:
    await gauges.apply(gauge("1", 1, 9), gauge("2", 2, 1), amend("a", "1", {"v": 3}), gauge("3", 7, 5))
    await clean(gauges)
    assert await extremes(gauges) == (2, 7, 3)


async def test_a_window_without_events_has_no_extremes_without_being_looked_at(gauges: Counting) -> None:
    await gauges.apply(gauge("1", 1), void("v", "1"))
    assert await extremes(gauges) == (None, None, None)
    await clean(gauges)
    assert await extremes(gauges) == (None, None, None)
    await gauges.apply(gauge("2", 5))
    assert await extremes(gauges) == (5, 5, 5)


async def test_events_that_come_while_it_looks_are_not_lost(gauges: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    await gauges.apply(gauge("1", 1), gauge("2", 9), gauge("3", 4), void("v", "1"), void("w", "2"))

    async def between(name: str) -> None:
        if name == "aggregator.dirty.after_refold":
            await gauges.apply(gauge("4", 20, 7))

    monkeypatch.setattr("services.aggregator.corrections.dirty.failpoint", between)
    assert await clean(gauges) == 3
    assert await extremes(gauges) == (4, 20, 20)


async def test_a_correction_that_comes_while_it_looks_leaves_the_window_dirty_for_the_next_look(
    gauges: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gauges.apply(gauge("1", 1), gauge("2", 9), gauge("3", 4, 2), gauge("5", 5, 1), void("v", "1"))

    async def between(name: str) -> None:
        if name == "aggregator.dirty.after_refold":
            monkeypatch.undo()
            await gauges.apply(void("w", "2"), amend("a", "5", {"v": 6}))

    monkeypatch.setattr("services.aggregator.corrections.dirty.failpoint", between)
    assert await clean(gauges) == 0
    assert await dirty(gauges) == 3
    assert await clean(gauges) == 3
    assert await extremes(gauges) == (4, 6, 4)


async def test_corrections_in_between_that_leave_count_and_sum_as_they_were_are_seen_by_their_marks(
    gauges: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gauges.apply(gauge("1", 1), gauge("2", 9), gauge("3", 4), gauge("5", 5, 1), void("v", "1"))

    async def between(name: str) -> None:
        if name == "aggregator.dirty.after_refold":
            monkeypatch.undo()
            await gauges.apply(amend("a", "2", {"v": 8}), amend("b", "3", {"v": 5}))

    monkeypatch.setattr("services.aggregator.corrections.dirty.failpoint", between)
    done = await clean_some(gauges.database, TOPIC, gauges.aggregator.group)
    assert done == Cleaned(clean=0, again=3, differ=0)
    assert await clean(gauges) == 3
    assert await extremes(gauges) == (5, 8, 5)


async def test_a_window_that_only_gains_in_between_is_looked_at_again_too(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    grouped = EXTREMES[1] | {"id": "grouped", "event_type": "grouped", "group_by": {"kind": "kind"}}
    async with opened(database_url, "khata_catalogue") as database, database.transaction() as connection:
        await catalogue_rows(connection, DOCUMENT | {"meters": [*DOCUMENT["meters"], grouped]})

    def of(id: str, value: int, kind: str) -> bytes:
        return stamped(id, data={"v": value, "kind": kind}, type="grouped")

    async with counting(database_url) as count:
        await count.apply(of("1", 1, "x"), of("2", 9, "x"), of("3", 20, "y"), void("v", "2"))

        async def between(name: str) -> None:
            if name == "aggregator.dirty.after_refold":
                monkeypatch.undo()
                await count.apply(amend("a", "3", {"v": 7, "kind": "x"}))

        monkeypatch.setattr("services.aggregator.corrections.dirty.failpoint", between)
        done = await clean_some(count.database, TOPIC, count.aggregator.group)
        assert done == Cleaned(clean=0, again=1, differ=0)
        assert await clean(count) == 2
        rows = await count.rows("SELECT maximum FROM usage.window WHERE meter_id = 'grouped' ORDER BY dimensions")
        assert rows == [(7,), (None,)]


async def test_two_that_look_at_once_agree(gauges: Counting) -> None:
    await gauges.apply(*(gauge(f"{n}", n, n) for n in range(1, 6)), void("v", "1"), void("w", "5"))
    await asyncio.gather(clean(gauges), clean(gauges))
    assert await extremes(gauges) == (2, 4, 4)
    assert await dirty(gauges) == 0


async def test_where_archive_and_window_do_not_agree_nothing_is_changed_and_the_others_are_done(
    gauges: Counting, database_url: str
) -> None:
    later = {"time": NOON + timedelta(hours=2), "type": "gauge"}
    await gauges.apply(gauge("1", 1), gauge("2", 4), stamped("3", data={"v": 7}, **later))
    await gauges.apply(void("v", "1"), void("w", "3"))
    with psycopg.connect(database_url) as owner:
        owner.execute(
            "UPDATE usage.window SET count = count + 1, sum = sum + 1 WHERE meter_id = 'min' AND hour = %s", [NOON]
        )
    assert await clean(gauges) == 5
    assert await dirty(gauges) == 1
    assert (await gauges.rows("SELECT minimum FROM usage.window WHERE meter_id = 'min' ORDER BY hour"))[0] == (1,)


async def test_a_month_is_not_sealed_while_one_of_its_windows_is_dirty(gauges: Counting, database_url: str) -> None:
    november = NOON + timedelta(days=31)
    await gauges.apply(gauge("1", 1), gauge("2", 4), gauge("3", 7, project="zenith-app"))
    await gauges.apply(stamped("n", data={"v": 1}, type="gauge", time=november), void("v", "1"), void("w", "n"))
    await gauges.apply(gauge("t", 3, live=False), void("x", "t", live=False))
    with pytest.raises(Retryable, match="3 windows of 2026-10"):
        await seal_month(database_url, OCTOBER, "acme")
    await seal_month(database_url, OCTOBER, "zenith")  # another organisation's are its own
    [(latest,)] = await gauges.rows("SELECT count(*) FROM usage.seal")
    assert latest == 1
    await clean(gauges)
    await seal_month(database_url, OCTOBER, "acme")
    assert await extremes_of_month(gauges) == Decimal(4)


async def extremes_of_month(count: Counting) -> Decimal:
    [(minimum,)] = await count.rows(
        "SELECT min(minimum) FROM usage.window WHERE live AND organisation_id = 'acme' AND hour = %s", NOON
    )
    return Decimal(minimum)
