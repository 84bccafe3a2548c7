"""The seal and batches race: every event is in the window below the cut or an adjustment, never both or none."""

from __future__ import annotations

import asyncio
from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from services.aggregator.apply import Aggregator
from shared.domain.errors import DatabaseAway
from shared.domain.period import Month
from shared.usage.seal import Cut, seal
from tests.support.usage import NOON, TOPIC, Counting, counting, opened, seal_month, stamped

_INDIA = ZoneInfo("Asia/Kolkata")


def _month(number: int) -> Month:
    return Month(2020 + number // 12, number % 12 + 1)


@pytest.mark.parametrize(
    ("rounds", "events"),
    [(12, 30), pytest.param(2_000, 8, marks=[pytest.mark.chaos, pytest.mark.timeout(1800)])],
)
async def test_whoever_wins_every_event_is_counted_in_exactly_one_place(
    database_url: str, rounds: int, events: int
) -> None:
    """Two aggregators, each on a partition of its own and with what it remembers of the epoch, and the seal."""
    raced = 0
    async with counting(database_url) as one, opened(database_url, "khata_invoicer") as database:
        other = Aggregator(one.database, one.aggregator.group)
        both = (one, Counting(one.database, other, one.producer))
        for number in range(rounds):
            month, first = _month(number), number * events

            async def produce(partition: int, month: Month = month) -> None:
                time = datetime(month.year, month.month, 15, tzinfo=NOON.tzinfo)
                for event in range(events):
                    id = f"{month}-{partition}-{event}"
                    await both[partition].apply(stamped(id, 1, time=time), partition=partition)

            async def close(month: Month = month, start_at: int = first + 1 + number * events // rounds) -> Cut:
                await _until(one, start_at)
                async with database.transaction() as connection:
                    return await seal(connection, "khata.aggregator", TOPIC, month, ["acme"])

            _, _, cut = await asyncio.gather(produce(0), produce(1), close())
            below = [cut.offsets[TOPIC].get(partition, first) - first for partition in (0, 1)]
            windowed, late = await _counted(one, month)
            assert windowed == Decimal(sum(below))
            ends = [
                (partition, offset)
                for partition in (0, 1)
                for offset in range(first + below[partition], first + events)
            ]
            assert late == ends
            raced += any(0 < count < events for count in below)
    assert raced >= rounds // 2  # the race took place


async def _counted(count: Counting, month: Month) -> tuple[Decimal, list[tuple[int, int]]]:
    """What stands in the month's windows, and the places of its adjustments."""
    bounds = month.bounds(_INDIA)
    [(windowed,)] = await count.rows(
        "SELECT coalesce(sum(sum), 0) FROM usage.window WHERE meter_id = 'tokens' AND hour >= %s AND hour < %s", *bounds
    )
    late = await count.rows(
        "SELECT partition, log_offset FROM usage.adjustment WHERE meter_id = 'tokens' AND hour >= %s AND hour < %s "
        "ORDER BY 1, 2",
        *bounds,
    )
    return windowed, late


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


async def _until(count: Counting, offset: int) -> None:
    """Waits until the partition stands there or further."""
    while count.ends.get(0, 0) < offset:
        await asyncio.sleep(0.001)
