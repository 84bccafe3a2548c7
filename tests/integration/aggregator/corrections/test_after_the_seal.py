"""After the seal windows stay as they were billed; signed adjustments lead to what stands."""

from __future__ import annotations

from decimal import Decimal

import psycopg
import pytest

from shared.domain.period import Month
from shared.usage.read import level_before
from tests.support.corrections import amend, signed, told, void
from tests.support.usage import NOON, Counting, counting, seal_month, stamped

OCTOBER = Month(2026, 10)
AS_ADJUSTMENT = ("applied", "adjustment", None)


async def sealed(count: Counting, database_url: str) -> None:
    """One event of 5 tokens is in the sealed month."""
    await count.apply(stamped("1", 5))
    await seal_month(database_url, OCTOBER, "acme")


def bill(database_url: str, document: str) -> None:
    """What the invoicer does with what is not billed."""
    with psycopg.connect(database_url) as owner:
        owner.execute(
            "UPDATE usage.adjustment SET billed_by = %s WHERE billed_by IS NULL AND taken_back_by IS NULL", [document]
        )


async def test_a_void_is_an_adjustment_that_takes_the_reading_out_and_no_window_changes(database_url: str) -> None:
    async with counting(database_url) as count:
        await sealed(count, database_url)
        before = await count.rows("SELECT * FROM usage.window ORDER BY meter_id")
        await count.apply(void("v", "1"))
        assert await count.rows("SELECT * FROM usage.window ORDER BY meter_id") == before
        assert await signed(count) == [("void", -1, 5)]
        assert await signed(count, "requests") == [("void", -1, 1)]
        assert [row[1:] for row in await told(count)] == [AS_ADJUSTMENT]
        [row] = await count.rows("SELECT time, event_id, partition, log_offset FROM usage.adjustment LIMIT 1")
        assert row == (NOON, "1", 0, 1)


async def test_an_amend_takes_the_old_reading_out_and_the_new_one_in_and_the_next_one_replaces_both(
    database_url: str,
) -> None:
    async with counting(database_url) as count:
        await sealed(count, database_url)
        await count.apply(amend("a", "1", {"tokens": 7}))
        assert sorted(await signed(count)) == [("amend", -1, 5), ("amend", 1, 7)]
        assert await signed(count, "requests") == []  # it says the same as before
        await count.apply(amend("b", "1", {"tokens": 9}))
        assert sorted(await signed(count)) == [("amend", -1, 5), ("amend", 1, 9)]
        await count.apply(amend("c", "1", {"tokens": 5}))
        assert await signed(count) == []
        assert len(await count.rows("SELECT 1 FROM usage.adjustment WHERE taken_back_by IS NOT NULL")) == 4


async def test_what_was_billed_stays_and_an_opposite_adjustment_follows(database_url: str) -> None:
    async with counting(database_url) as count:
        await sealed(count, database_url)
        await count.apply(amend("a", "1", {"tokens": 7}))
        bill(database_url, "CN/1")
        await count.apply(amend("b", "1", {"tokens": 9}))
        assert sorted((await signed(count))[2:]) == [("amend", -1, 7), ("amend", 1, 9)]
        bill(database_url, "CN/2")
        await count.apply(void("v", "1"))
        assert (await signed(count))[4:] == [("void", -1, 9)]
        assert sum(sign * value for _, sign, value in await signed(count)) == -5


async def test_a_late_event_is_taken_back_as_long_as_it_is_not_billed(database_url: str) -> None:
    async with counting(database_url) as count:
        await sealed(count, database_url)
        await count.apply(stamped("2", 8), stamped("3", 9))
        await count.apply(void("v", "2"))
        assert await signed(count) == [("late", 1, 9)]
        bill(database_url, "KH/2")
        await count.apply(void("w", "3"))
        assert await signed(count) == [("late", 1, 9), ("void", -1, 9)]


async def test_a_late_event_is_amended_as_long_as_it_is_not_billed(database_url: str) -> None:
    async with counting(database_url) as count:
        await sealed(count, database_url)
        await count.apply(amend("a", "2", {"tokens": 80}), stamped("2", 8), stamped("3", 9))
        assert sorted(await signed(count)) == [("amend", 1, 80), ("late", 1, 9)]
        bill(database_url, "KH/2")
        await count.apply(amend("b", "2", {"tokens": 81}))
        assert sorted(await signed(count))[:3] == [("amend", -1, 80), ("amend", 1, 80), ("amend", 1, 81)]


async def test_what_was_corrected_before_the_seal_is_the_base_of_what_comes_after(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5), amend("a", "1", {"tokens": 6}))
        await seal_month(database_url, OCTOBER, "acme")
        await count.apply(amend("b", "1", {"tokens": 7}), stamped("2", 1), void("v", "2"))
        assert sorted(await signed(count)) == [("amend", -1, 6), ("amend", 1, 7)]
        assert [row[2] for row in await told(count)] == ["window", "adjustment", "adjustment"]
        assert (await count.windows())["tokens"] == (1, Decimal(6))


async def test_a_void_before_the_seal_is_final_after_it(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5), void("v", "1"))
        await seal_month(database_url, OCTOBER, "acme")
        await count.apply(amend("a", "1", {"tokens": 7}))
        assert await signed(count) == []
        assert (await told(count))[1][1:] == ("refused", None, "voided")


async def test_test_windows_are_never_sealed(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5, live=False))
        await seal_month(database_url, OCTOBER, "acme")
        await count.apply(void("v", "1", live=False))
        assert (await count.windows(live=False))["tokens"] == (0, Decimal(0))
        assert await signed(count) == []


@pytest.mark.parametrize("billed", [False, True])
async def test_the_level_of_a_weighted_sum_is_that_of_what_stands(database_url: str, billed: bool) -> None:
    async with counting(database_url) as count:
        await sealed(count, database_url)
        await count.apply(stamped("2", 8), amend("a", "1", {"tokens": 7}))
        if billed:
            bill(database_url, "KH/2")
        await count.apply(void("v", "2"))
        november = NOON.replace(month=11)
        async with count.database.connection() as connection:
            level = await level_before(connection, "acme", "tokens", november, late_before=november)
        assert level == 7
