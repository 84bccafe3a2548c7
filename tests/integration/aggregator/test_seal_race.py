"""The seal and batches race: every event is in the window below the cut or an adjustment, never both or none."""

from __future__ import annotations

import asyncio
from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from shared.domain.errors import DatabaseAway
from shared.domain.period import Month
from shared.usage.seal import seal
from tests.support.usage import NOON, TOPIC, counting, opened, seal_month, stamped

ROUNDS, EVENTS = 12, 30
_INDIA = ZoneInfo("Asia/Kolkata")


def _month(number: int) -> Month:
    return Month(2020 + number // 12, number % 12 + 1)


async def test_whoever_wins_every_event_is_counted_in_exactly_one_place(database_url: str) -> None:
    both = 0
    async with counting(database_url) as count, opened(database_url, "khata_invoicer") as database:
        for number in range(ROUNDS):
            month = _month(number)
            time = datetime(month.year, month.month, 15, tzinfo=NOON.tzinfo)
            first = count.ends.get(0, 0)

            async def produce(number: int = number, time: datetime = time) -> None:
                for event in range(EVENTS):
                    await count.apply(stamped(f"{number}-{event}", 1, time=time))

            async def close(month: Month = month, start_at: int = first + 1 + number * EVENTS // ROUNDS) -> Any:
                await _until(count, start_at)
                async with database.transaction() as connection:
                    return await seal(connection, "khata.aggregator", TOPIC, month, ["acme"])

            _, cut = await asyncio.gather(produce(), close())
            below = cut.offsets[TOPIC][0] - first
            start, end = month.bounds(_INDIA)
            [(windowed,)] = await count.rows(
                "SELECT coalesce(sum(sum), 0) FROM usage.window WHERE meter_id = 'tokens' AND hour >= %s AND hour < %s",
                start,
                end,
            )
            late = await count.rows(
                "SELECT log_offset FROM usage.adjustment WHERE meter_id = 'tokens' AND hour >= %s AND hour < %s "
                "ORDER BY log_offset",
                start,
                end,
            )
            assert windowed == Decimal(below)
            assert [row[0] for row in late] == list(range(first + below, first + EVENTS))
            both += 0 < below < EVENTS
    assert both >= ROUNDS // 2  # the race took place


async def test_the_seal_waits_for_a_batch_in_flight_and_the_next_batch_sees_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def hold(name: str) -> None:
        if name == "aggregator.batch.before_commit":
            entered.set()
            await go_on.wait()

    monkeypatch.setattr("services.aggregator.apply.failpoint", hold)
    async with counting(database_url) as count:
        flying = asyncio.create_task(count.apply(stamped("1", 5)))
        await entered.wait()
        sealing = asyncio.create_task(seal_month(database_url, Month(2026, 10), "acme"))
        done, _ = await asyncio.wait({sealing}, timeout=0.3)
        assert not done
        go_on.set()
        await flying
        assert (await sealing).offsets == {TOPIC: {0: 1}}
        await count.apply(stamped("2", 7))
        assert await count.dispositions() == "ca"


async def test_a_seal_that_cannot_get_the_lock_gives_up_before_a_batch_would(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.postgres.epoch.EXCLUSIVE_LOCK_TIMEOUT_MS", 100)
    async with opened(database_url, "khata_aggregator") as database, database.transaction() as connection:
        await connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", (0x6B65706F6368,))
        with pytest.raises(DatabaseAway, match="lock timeout"):
            await seal_month(database_url, Month(2026, 10), "acme")


async def test_a_second_seal_of_a_month_keeps_the_first_cut(database_url: str) -> None:
    async with counting(database_url) as count, opened(database_url, "khata_invoicer") as database:
        await count.apply(stamped("1"))
        first = await seal_month(database_url, Month(2026, 10), "acme")
        await count.apply(stamped("2"))
        await seal_month(database_url, Month(2026, 10), "acme", "zenith")
        rows = await count.rows("SELECT organisation_id, cut_id FROM usage.seal ORDER BY 1")
        assert rows[0] == ("acme", first.id)
        assert rows[1][1] > first.id
        assert database is not None


async def _until(count: Any, offset: int) -> None:
    """Waits until the partition stands there or further."""
    while count.ends.get(0, 0) < offset:
        await asyncio.sleep(0.001)
