"""Every aggregation: order, grouping and repetition do not matter, and a second, simple implementation agrees."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contracts.messages.event import StampedEvent
from shared.domain.errors import Usage
from shared.domain.meter import AGGREGATIONS, Meter, Reading
from shared.domain.period import day_start, local_hour_start, split
from shared.usage.parts import SUMS, Parts, Period, quantity
from shared.usage.simulate import PROJECT, Simulated, simulate
from tests.support.simple_usage import Simple, answer

INDIA = ZoneInfo("Asia/Kolkata")
START = datetime(2026, 9, 30, 18, 30, tzinfo=UTC)  # 1 October in India
END = START + timedelta(days=2)

exact = st.decimals(-(10**6), 10**6, places=4).map(lambda value: value + 0) | st.integers(-5, 5).map(Decimal)
instants = st.integers(-40, 60 * 24 * 2 + 40).map(lambda minute: START + timedelta(minutes=minute)) | st.sampled_from(
    [START, END, END - timedelta(microseconds=1), START + timedelta(hours=3, microseconds=7)]
)


@st.composite
def sent(draw: st.DrawFn) -> list[tuple[str, datetime, Decimal, str]]:
    """What producers send: ids repeat, always with the same content."""
    known = draw(st.dictionaries(st.sampled_from("abcdefghij"), st.tuples(instants, exact, st.sampled_from("xyz"))))
    order = draw(st.lists(st.sampled_from(sorted(known)), max_size=30)) if known else []
    return [(id, *known[id]) for id in order]


def meter(aggregation: str) -> Meter:
    path = {"count": None, "unique_count": "text"}.get(aggregation, "value")
    return Meter("m", 1, "M", "t", aggregation, path)  # type: ignore[arg-type]


def stamped(id: str, time: datetime, value: Decimal, text: str) -> StampedEvent:
    data = msgspec.Raw(f'{{"value": {value}, "text": "{text}"}}'.encode())
    return StampedEvent(id, "s", "t", "alice", time, PROJECT, True, time, "test", data=data)


def said(aggregation: str, events: list[tuple[str, datetime, Decimal, str]], window: str = "period") -> Simulated:
    return simulate(meter(aggregation), [stamped(*event) for event in events], START, END, window, INDIA)  # type: ignore[arg-type]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@given(events=sent())
@settings(max_examples=80, deadline=None)
def test_a_second_simple_implementation_agrees(
    aggregation: str, events: list[tuple[str, datetime, Decimal, str]]
) -> None:
    simple = [Simple(id, time, Fraction(value), text) for id, time, value, text in events]
    [row] = said(aggregation, events).rows
    expected = answer(aggregation, simple, START, END)
    assert (None if row.quantity is None else Fraction(row.quantity)) == expected
    for each in said(aggregation, events, "day").rows:
        expected = answer(aggregation, simple, each.start, each.end)
        assert (None if each.quantity is None else Fraction(each.quantity)) == expected


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@given(events=sent(), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_the_order_of_arrival_and_repetition_do_not_matter(
    aggregation: str, events: list[tuple[str, datetime, Decimal, str]], seed: int
) -> None:
    shuffled = events * 2
    random.Random(seed).shuffle(shuffled)
    assert said(aggregation, events, "hour").rows == said(aggregation, shuffled, "hour").rows


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@given(readings=st.lists(st.tuples(instants, exact, st.sampled_from("xyz"))), cuts=st.lists(st.integers(0, 30)))
@settings(max_examples=40, deadline=None)
def test_parts_add_up_to_the_same_however_they_are_grouped(
    aggregation: str, readings: list[tuple[datetime, Decimal, str]], cuts: list[int]
) -> None:
    whole, grouped = Parts(), Parts()
    with localcontext(SUMS):
        ends = sorted({min(cut, len(readings)) for cut in cuts} | {len(readings)})
        begin = 0
        for end in ends:
            group = Parts()
            for index in range(begin, end):
                for into in (whole, group):
                    _add(into, aggregation, index, readings[index])
            grouped.merge(group)
            begin = end
    assert grouped == whole
    period = Period(START - timedelta(days=1), END + timedelta(days=1))
    assert quantity(meter(aggregation).aggregation, grouped, period) == quantity(
        meter(aggregation).aggregation, whole, period
    )


def _add(into: Parts, aggregation: str, index: int, reading: tuple[datetime, Decimal, str]) -> None:
    time, value, text = reading
    of = meter(aggregation)
    told = of.reading({"value": value, "text": text})
    assert isinstance(told, Reading)
    into.add(told, index.to_bytes(16, "big"), time, str(index))


def test_of_two_events_at_one_instant_the_larger_id_is_the_latest_whatever_came_first() -> None:
    at = START + timedelta(hours=1)
    events = [("b", at, Decimal(2), "x"), ("a", at, Decimal(1), "x")]
    assert said("latest", events).rows[0].quantity == said("latest", events[::-1]).rows[0].quantity == 2


def test_the_largest_values_there_are_lose_no_digit() -> None:
    most = Decimal("99999999999999999999.999999999999999999")
    events = [(str(n), START + timedelta(seconds=n), most, "x") for n in range(100)]
    with localcontext(SUMS):
        assert said("sum", events).rows[0].quantity == most * 100
    assert said("weighted_sum", events).rows[0].quantity is not None


def test_nothing_is_zero_for_what_adds_up_and_null_for_the_others() -> None:
    nothing = {aggregation: said(aggregation, []).rows[0].quantity for aggregation in AGGREGATIONS}
    assert nothing == {
        "count": 0,
        "sum": 0,
        "unique_count": 0,
        "weighted_sum": 0,
        "min": None,
        "max": None,
        "avg": None,
        "latest": None,
    }


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "Asia/Kathmandu", "America/New_York", "Australia/Lord_Howe", "UTC"])
@given(day=st.dates(date(2026, 1, 1), date(2027, 12, 1)), hours=st.integers(1, 24 * 70))
@settings(max_examples=25, deadline=None)
def test_windows_tile_a_period_without_gap(zone: str, day: date, hours: int) -> None:
    here = ZoneInfo(zone)
    start = day_start(day, here)
    end = local_hour_start(start + timedelta(hours=hours), here)
    if end <= start:
        return
    for window in ("hour", "day", "month", "period"):
        found = split(start, end, window, here)  # type: ignore[arg-type]
        assert found[0][0] == start
        assert found[-1][1] == end
        assert all(one[1] == other[0] for one, other in zip(found, found[1:], strict=False))
        assert all(one[0] < one[1] for one in found)


def test_a_period_that_begins_inside_an_hour_is_refused() -> None:
    with pytest.raises(Usage, match="not the start of an hour in Asia/Kolkata"):
        split(START + timedelta(minutes=30), END, "day", INDIA)
    with pytest.raises(Usage, match="after start"):
        split(END, START, "day", INDIA)
    with pytest.raises(Usage, match="more than"):
        split(START, START + timedelta(days=1000), "hour", INDIA)
