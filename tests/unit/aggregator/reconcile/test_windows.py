"""Archive against windows: any difference is found, and the event is named where the sums can tell it."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.aggregator.reconcile.finding import FindingClass
from services.aggregator.reconcile.window_pass import HOURS_AT_ONCE, WINDOWS_AT_ONCE, older, pieces
from services.aggregator.reconcile.windows import Difference, EventRef, Named, compare, finding, name_ids
from shared.domain.identity import Fingerprint
from shared.usage.fold import WindowKey
from shared.usage.parts import Parts

HOUR = datetime(2026, 10, 15, 6, 30, tzinfo=UTC)
ONE = timedelta(hours=1)


def key(subject: str = "alice") -> WindowKey:
    return WindowKey("acme", "acme-app", True, subject, "tokens", 1, "", HOUR)


def events(count: int, seed: int = 1) -> list[EventRef]:
    chance = random.Random(seed)
    return [EventRef(chance.randbytes(16), f"e{n}", 0, n) for n in range(count)]


def parts(found: list[EventRef]) -> Parts:
    fingerprint = Fingerprint()
    for event in found:
        fingerprint = fingerprint.with_key(event.key)
    return Parts(count=len(found), sum=Decimal(len(found)), fingerprint=fingerprint)


def test_equal_windows_differ_in_nothing_however_they_are_spelled() -> None:
    stored = replace(parts(events(3)), sum=Decimal("3.00"), distinct={b"x": 1, b"y": 0})
    archive = replace(parts(events(3)), distinct={b"x": 1})
    assert list(compare([(key(), stored)], {key(): archive})) == []
    assert list(compare([(key(), Parts())], {})) == []


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("count", 4),
        ("sum", Decimal("3.000000000000000001")),
        ("fingerprint", Fingerprint(1, 2)),
        ("minimum", Decimal(1)),
        ("maximum", Decimal(1)),
        ("latest", (HOUR, "e1", Decimal(1))),
        ("moment", Decimal(1)),
        ("distinct", {b"x": 2}),
    ],
)
def test_each_part_that_differs_is_named(part: str, value: object) -> None:
    archive = parts(events(3))
    changed = replace(archive, **{part: value})  # type: ignore[arg-type]
    [found] = compare([(key(), changed)], {key(): archive})
    assert found.parts == [part]
    assert finding(found, Named(), sealed=False).found is FindingClass.WINDOW_DIFFERS
    assert finding(found, Named(), sealed=True).found is FindingClass.WINDOW_SEALED


def test_a_window_that_only_one_side_has_is_missing_or_surplus() -> None:
    mine = parts(events(2))
    one, two = compare([(key("a"), mine)], {key("b"): mine})
    assert finding(one, Named(), sealed=False).found is FindingClass.WINDOW_SURPLUS
    assert finding(two, Named(), sealed=False).found is FindingClass.WINDOW_MISSING
    assert name_ids(two, events(2)) == Named(missing=("e0", "e1"))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(3, 40))
def test_an_event_too_few_or_too_many_is_named_exactly(seed: int, size: int) -> None:
    all_of_them = events(size, seed)
    one, other = random.Random(seed).sample(all_of_them, 2)
    archive = parts(all_of_them)

    def named(stored: list[EventRef]) -> Named:
        return name_ids(Difference(key(), parts(stored), archive), all_of_them)

    without = [event for event in all_of_them if event is not one]
    assert named(without) == Named(missing=(one.name,))
    assert named([*all_of_them, one]) == Named(surplus=(one.name,))
    assert named([*without, other]) == Named(missing=(one.name,), surplus=(other.name,))
    less_two = named([event for event in without if event is not other])
    assert set(less_two.missing) == {one.name, other.name}
    assert set(named([*all_of_them, one, other]).surplus) == {one.name, other.name}
    stranger = EventRef(b"\xff" * 16, "stranger", 0, 0)
    assert named([*all_of_them, stranger]) == Named()


def test_pieces_tile_the_period_and_are_bounded() -> None:
    by_hour = {HOUR + n * ONE: WINDOWS_AT_ONCE // (3 if n < 9 else 40) for n in range(60)}
    by_hour[HOUR + 20 * ONE] = 3 * WINDOWS_AT_ONCE
    found = list(pieces(HOUR - 30 * ONE, HOUR + 100 * ONE, by_hour))
    assert found[0][0] == HOUR - 30 * ONE
    assert found[-1][1] == HOUR + 100 * ONE
    assert all(before[1] == after[0] for before, after in zip(found, found[1:], strict=False))
    for start, end in found:
        inside = [count for hour, count in by_hour.items() if start <= hour < end]
        assert end - start <= HOURS_AT_ONCE * ONE
        assert sum(inside) <= WINDOWS_AT_ONCE or len(inside) == 1
    assert list(pieces(HOUR, HOUR + ONE, {})) == [(HOUR, HOUR + ONE)]


def test_older_hours_are_joined_bounded_to_the_latest_and_end_where_the_period_starts() -> None:
    touched = {HOUR - n * ONE for n in (1, 2, 9, 40)}
    found, left_out = older(touched, HOUR - ONE / 2, 3)
    assert found == [(HOUR - 10 * ONE, HOUR - 8 * ONE), (HOUR - 3 * ONE, HOUR - ONE / 2)]
    assert left_out == 1
    assert older(set(), HOUR, 3) == ([], 0)
