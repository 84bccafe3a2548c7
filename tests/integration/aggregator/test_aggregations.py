"""Every aggregation through Postgres: windows of many batches add up to what one look at all events says."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import psycopg
import pytest

from shared.domain.errors import LogMoved, Usage
from shared.domain.meter import AGGREGATIONS
from shared.domain.period import Month
from shared.postgres.meters import read_meters
from shared.usage.read import MeterUsage, month_usage
from tests.support.simple_usage import Simple, answer
from tests.support.usage import Counting, catalogue_rows, counting, opened, seal_month, stamped

START = datetime(2026, 9, 30, 18, 30, tzinfo=UTC)  # October in India
END = datetime(2026, 10, 31, 18, 30, tzinfo=UTC)
METERS = [
    {
        "id": f"m_{aggregation}",
        "event_type": "gauge.read",
        "aggregation": aggregation,
        **({} if aggregation == "count" else {"value_path": "text" if aggregation == "unique_count" else "value"}),
        **({"group_by": {"kind": "text"}} if aggregation in ("sum", "unique_count") else {}),
    }
    for aggregation in AGGREGATIONS
]
DOCUMENT = {
    "organisations": [{"id": "acme", "name": "Acme", "state_code": "29"}],
    "projects": [{"id": "acme-app", "organisation": "acme"}, {"id": "acme-two", "organisation": "acme"}],
    "meters": METERS,
}


def gauge(event: Simple, **more: Any) -> bytes:
    data = f'{{"value": {Decimal(event.value.numerator) / event.value.denominator}, "text": "{event.text}"}}'.encode()
    return stamped(event.id, data=data, time=event.time, type="gauge.read", **more)


async def usage(count: Counting, start: datetime = START, end: datetime = END) -> dict[str, MeterUsage]:
    async with count.database.connection() as connection:
        meters = await read_meters(connection)
        return {each.meter.id: each for each in await month_usage(connection, "acme", start, end, meters)}


async def apply_meters(database_url: str, *meters: dict[str, Any]) -> None:
    async with opened(database_url, "khata_catalogue") as database, database.transaction() as connection:
        await catalogue_rows(connection, DOCUMENT | {"meters": list(meters)})


@pytest.mark.parametrize("seed", range(3))
async def test_windows_of_many_batches_say_what_one_look_at_all_events_says(database_url: str, seed: int) -> None:
    chance = random.Random(seed)
    minutes = int((END - START) / timedelta(minutes=1))
    events = [
        Simple(
            f"{n:03}",
            START + timedelta(minutes=chance.randrange(-3000, minutes)),
            Fraction(chance.randrange(-500, 500), 100),
            chance.choice("xyz"),
        )
        for n in range(200)
    ]
    arriving = events + chance.sample(events, 60)
    chance.shuffle(arriving)
    await apply_meters(database_url, *METERS)
    async with counting(database_url) as count:
        while arriving:
            size = chance.randrange(1, 30)
            sent = [
                gauge(one, subject=f"s{int(one.id) % 5}", project=("acme-app", "acme-two")[int(one.id) % 2])
                for one in arriving[:size]
            ]
            await count.apply(*sent, partition=chance.randrange(2))
            del arriving[:size]
        found = await usage(count)
        for aggregation in AGGREGATIONS:
            expected = answer(aggregation, events, START, END)
            assert expected is not None
            assert Fraction(found[f"m_{aggregation}"].quantity) == expected, aggregation


async def test_each_combination_of_dimensions_has_windows_of_its_own(database_url: str) -> None:
    await apply_meters(database_url, *METERS)
    async with counting(database_url) as count:
        at = START + timedelta(hours=1)
        await count.apply(*(gauge(Simple(str(n), at, Fraction(n), "xy"[n % 2])) for n in range(4)))
        rows = await count.rows(
            "SELECT dimensions, count, sum FROM usage.window WHERE meter_id = 'm_sum' ORDER BY dimensions"
        )
        assert rows == [('{"kind":"x"}', 2, Decimal(2)), ('{"kind":"y"}', 2, Decimal(4))]


async def test_a_weighted_sum_carries_its_level_into_months_without_events_and_late_deltas_with_it(
    database_url: str,
) -> None:
    await apply_meters(database_url, *METERS)
    async with counting(database_url) as count:
        await count.apply(gauge(Simple("1", START - timedelta(days=10), Fraction(4), "x")))
        assert (await usage(count))["m_weighted_sum"].quantity == 4
        await seal_month(database_url, Month(2026, 9), "acme")
        await count.apply(gauge(Simple("2", START - timedelta(days=5), Fraction(3), "x")))
        assert await count.dispositions() == "ca"
        found = await usage(count)
        assert found["m_weighted_sum"].quantity == 7
        assert list(found) == ["m_weighted_sum"]


async def test_an_event_that_a_filter_leaves_out_is_accepted_once_and_is_in_no_window(database_url: str) -> None:
    only_x = {"path": "text", "operator": "in", "values": ["x"]}
    await apply_meters(database_url, METERS[0] | {"filters": [only_x]})
    async with counting(database_url) as count:
        await count.apply(*(gauge(Simple(text, START, Fraction(1), text)) for text in ("x", "y", "y")))
        assert await count.dispositions() == "cud"
        assert (await usage(count))["m_count"].quantity == 1


async def test_a_changed_meter_counts_from_its_hour_on_and_older_usage_stays(database_url: str) -> None:
    await apply_meters(database_url, METERS[1])
    with psycopg.connect(database_url) as owner:
        hour = owner.execute("SELECT date_trunc('hour', now(), 'UTC') + interval '3 hours'").fetchone()
    assert hour is not None
    changed = METERS[1] | {"clamp": {"max": 10}}
    async with counting(database_url) as count:
        await count.apply(gauge(Simple("1", START, Fraction(50), "x")))
        for wrong in (None, hour[0] - timedelta(hours=3), hour[0] + timedelta(minutes=1)):
            with pytest.raises(Usage, match="effective_from"):
                await apply_meters(database_url, changed | {"effective_from": wrong and wrong.isoformat()})
        await apply_meters(database_url, changed | {"effective_from": hour[0].isoformat()})
        await apply_meters(database_url, changed | {"effective_from": hour[0].isoformat()})  # again: the same
        with pytest.raises(Usage, match="changes at .* already"):
            earlier = (hour[0] - timedelta(hours=1)).isoformat()
            await apply_meters(database_url, METERS[1] | {"effective_from": earlier})
        # Organisations in India count by hours that begin at half past: theirs is the first that begins after it.
        await count.apply(
            gauge(Simple("2", hour[0] - timedelta(hours=1), Fraction(50), "x")),
            gauge(Simple("3", hour[0] + timedelta(hours=1), Fraction(50), "x")),
        )
        rows = await count.rows("SELECT meter_version, sum(sum) FROM usage.window GROUP BY 1 ORDER BY 1")
        assert rows == [(1, Decimal(100)), (2, Decimal(10))]


async def test_records_of_a_topic_made_anew_are_not_taken_for_those_in_the_archive(database_url: str) -> None:
    await apply_meters(database_url, METERS[0])
    rewound = "UPDATE messaging.consumer_offset SET next_offset = 0, last_offset = NULL, last_digest = NULL"
    async with counting(database_url) as count:
        events = [gauge(Simple(str(n), START, Fraction(1), "x")) for n in range(5)]
        await count.apply(*events)
        with psycopg.connect(database_url) as owner:
            owner.execute(rewound)
        count.ends.clear()
        await count.apply(*events)  # the very records: no second effect
        assert (await usage(count))["m_count"].quantity == 5
        with psycopg.connect(database_url) as owner:
            owner.execute(rewound)
        count.ends.clear()
        with pytest.raises(LogMoved, match="made anew"):
            await count.apply(*(gauge(Simple(f"new-{n}", START, Fraction(1), "x")) for n in range(5)))


async def test_a_new_meter_of_a_counted_type_begins_in_a_future_hour(database_url: str) -> None:
    await apply_meters(database_url, METERS[0])
    with pytest.raises(Usage, match="counted already .by m_count.*effective_from"):
        await apply_meters(database_url, METERS[0], METERS[1])
    with psycopg.connect(database_url) as owner:
        hour = owner.execute("SELECT date_trunc('hour', now(), 'UTC') + interval '3 hours'").fetchone()
    assert hour is not None
    await apply_meters(database_url, METERS[0], METERS[1] | {"effective_from": hour[0].isoformat()})
    async with counting(database_url) as count:
        await count.apply(gauge(Simple("1", START, Fraction(5), "x")))
        assert list(await usage(count)) == ["m_count"]
