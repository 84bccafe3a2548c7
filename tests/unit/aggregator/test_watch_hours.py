"""What is unusual about hours of usage: nothing in steady days, one finding for each thing that is planted."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import timedelta
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from services.aggregator.watch import hours
from services.aggregator.watch.hours_state import SeriesState, decode_series, encode_series
from services.aggregator.watch.hours_watch import HoursWatch, place_of
from shared.contracts.messages.anomaly import Anomaly, Class, decode_anomaly
from shared.contracts.messages.window import WindowMessage, encode_window
from shared.contracts.topics import Names
from shared.postgres.outbox import OutboxMessage
from tests.support.hours import HOUR, SERIES, START, window

few = settings(max_examples=40, deadline=None)
noisy_days = st.lists(st.integers(80, 160), min_size=60, max_size=60)


def play(windows: Iterable[WindowMessage], until: int | None = None) -> list[Anomaly]:
    """Findings of the series: each window is told in its hour; at the end it is the hour `until`."""
    state, found, now_s = SeriesState(), list[Anomaly](), 0.0
    for one in windows:
        now_s = max(now_s, min(one.updated_at.timestamp(), one.hour.timestamp() + 3600))
        state, observed = hours.observe(decode_series(encode_series(state)), SERIES, one)
        advanced, more = hours.advance(state, SERIES, now_s)
        state = advanced or SeriesState()
        found += observed + more
    if until is not None:
        _, more = hours.advance(state, SERIES, (START + (until + 1) * HOUR).timestamp())
        found += more
    return found


def days(counts: Sequence[int], first: int = 0) -> list[WindowMessage]:
    """An hour without events has no window."""
    return [window(first + number, count) for number, count in enumerate(counts) if count]


@few
@given(noisy_days, st.integers(1, 5))
def test_steady_days_give_no_finding(counts: list[int], revisions: int) -> None:
    told = [
        window(number, max(1, count * revision // revisions), revision=revision)
        for number, count in enumerate(counts)
        for revision in range(1, revisions + 1)
    ]
    assert play(told, 60) == []


@few
@given(st.lists(st.integers(0, 12), min_size=60, max_size=60), st.integers(0, hours.FLOOR - 1))
def test_few_events_are_never_unusual_however_they_vary(counts: list[int], last: int) -> None:
    assert play(days([*counts, last, 1]), 62) == []


@few
@given(noisy_days, st.integers(1_000, 10**9), st.integers(1, 6))
def test_a_planted_spike_is_found_once_however_long_it_lasts(counts: list[int], events: int, lasts: int) -> None:
    [one] = play(days([*counts, *[events] * lasts, 100]), 60 + lasts)
    assert (one.found, one.minute, one.observed) == (Class.HOUR_SPIKE, START + 60 * HOUR, events)
    assert one.window
    assert one.window.quantity == str(events * 10)
    assert 800 <= Decimal(str(one.window.usual_quantity)) <= 1600


@few
@given(noisy_days, st.integers(0, 15), st.integers(1, 6))
def test_a_planted_drop_is_found_once_even_to_nothing(counts: list[int], events: int, lasts: int) -> None:
    [one] = play(days([*counts, *[events] * lasts]), 60 + lasts)
    assert (one.found, one.minute, one.observed) == (Class.HOUR_DROP, START + 60 * HOUR, events)


@few
@given(st.integers(200, 2_000), st.integers(0, 40), st.integers(0, 23))
def test_nights_are_known_after_a_day(by_day: int, by_night: int, starts_at: int) -> None:
    counts = [by_day if 8 <= (starts_at + number) % 24 < 20 else by_night for number in range(120)]
    assert [one for one in play(days(counts), 119) if one.minute >= START + 48 * HOUR] == []


def test_quantities_are_judged_and_not_only_events() -> None:
    [one] = play([*days([100] * 48), window(48, 100, "99000.5"), window(49, 100)], 49)
    assert (one.found, one.window and one.window.quantity) == (Class.HOUR_SPIKE, "99000.5")


def test_hours_that_do_not_add_up_are_judged_by_their_events() -> None:
    gauges = [window(n, 100, str(n % 7 * 1000), aggregation="max") for n in range(48)]
    assert play([*gauges, window(48, 100, "999999", aggregation="max")], 49) == []


@few
@given(st.decimals(Decimal("0.01"), 10**9, places=2))
def test_a_negative_quantity_of_a_billed_meter_is_told_when_its_hour_is_over(below: Decimal) -> None:
    credit = window(3, 2, f"{-below:f}")
    assert play([credit], 3) == []  # the hour still runs
    [one] = play([credit, window(4, 1), window(5, 1)], 5)
    assert (one.found, one.minute) == (Class.NEGATIVE_QUANTITY, START + 3 * HOUR)
    assert play([window(3, 2, f"{-below:f}", billable=False), *(window(n, 1, billable=False) for n in (4, 5))], 5) == []
    later = START + 9 * HOUR
    more = [
        window(3, 3, f"{-below * Decimal('1.5'):f}", revision=2, updated_at=later),
        window(3, 4, f"{-below * 2:f}", revision=3, updated_at=later),
    ]
    again = play([credit, window(4, 1), window(5, 1), *more], 5)
    assert [one.window and one.window.quantity for one in again] == [f"{-below:f}", f"{-below * 2:f}"]
    assert len({one.id for one in again}) == 2


@few
@given(st.integers(20, 500), st.integers(1, 400))
def test_a_late_change_is_told_from_a_tenth_on_and_again_when_it_has_doubled(events: int, more: int) -> None:
    told = days([events] * 30)
    late = START + 29 * HOUR
    [*found] = play([*told, window(5, events + more, revision=2, updated_at=late)], 30)
    assert [one.found for one in found] == ([Class.LATE_CHANGE] if more * 10 >= events else [])
    grown = [window(5, events + more * by, revision=by + 1, updated_at=late) for by in (1, 1, 2) if more * 10 >= events]
    assert len(play([*told, *grown], 30)) == (2 if grown else 0)
    slowly = [window(5, events + by, revision=1 + by, updated_at=late) for by in range(1, more + 1)]
    assert bool(play([*told, *slowly], 30)) == (more * 10 >= events)  # one by one is as much as at once
    soon = window(5, events + more, revision=2, updated_at=START + 6 * HOUR + timedelta(minutes=5))
    assert play([*told[:7], soon, *told[7:]], 29) == [] or more > events * 4  # stragglers; far too many are a spike


def test_a_whole_hour_that_comes_days_late_is_told_and_one_that_was_not_known_is_learned() -> None:
    told, late = days([100] * 60), START + 59 * HOUR
    [one] = play([*told, window(-30, 40, updated_at=late)], 60)
    assert (one.found, one.minute, one.usual, one.observed) == (Class.LATE_CHANGE, START - 30 * HOUR, 0, 40)
    assert play([*told, window(-30, 40, revision=7, updated_at=late)], 60) == []
    assert play([*told, window(-30, 40, updated_at=late, backfilled_before=late)], 60) == []
    fewer = play([*told, window(50, 30, revision=2, updated_at=late)], 60)
    assert [one.found for one in fewer] == [Class.LATE_CHANGE]  # voided events count like late ones


@few
@given(noisy_days, st.randoms(use_true_random=False))
def test_what_is_read_again_or_comes_behind_a_higher_revision_finds_nothing_else(
    counts: list[int], chance: random.Random
) -> None:
    late = START + 61 * HOUR
    told = [*days([*counts, 9_000, 100]), window(7, 500, revision=2, updated_at=late), window(62, 100)]
    once = play(told, 62)
    assert {one.found for one in once} == {Class.HOUR_SPIKE, Class.LATE_CHANGE}
    crash = chance.randrange(20, len(told))
    assert play([*told[:crash], *told[crash - 20 : crash], *told[crash:]], 62) == once
    assert play([each for one in told for each in [one] * chance.randint(1, 3)], 62) == once


def test_a_series_without_events_for_two_days_is_forgotten_and_what_is_kept_is_bounded() -> None:
    state = SeriesState()
    for number in range(400):
        state, _ = hours.observe(state, SERIES, window(number, 5, str(-number - 1)))
        kept, _ = hours.advance(state, SERIES, (START + (number + 1) * HOUR).timestamp())
        assert kept is not None
        state = kept
    assert len(state.hours) <= hours.MOST
    assert len(state.told) <= hours.MOST
    assert len(encode_series(state)) < 10_000
    gone, _ = hours.advance(state, SERIES, (START + 452 * HOUR).timestamp())
    assert gone is None


class Kept:
    def __init__(self) -> None:
        self.sent: list[Anomaly] = []

    async def send(self, messages: Sequence[OutboxMessage], deadline_s: float = 0) -> list[tuple[int, int]]:
        self.sent += [decode_anomaly(message.value or b"") for message in messages]
        return []


async def test_a_subject_that_stops_is_told_by_the_windows_of_others_and_never_while_none_come() -> None:
    kept, states = Kept(), dict[bytes, bytes]()
    watch = HoursWatch(states, kept, Names())
    told = days([100] * 48)
    others = [window(number, 100, subject="bob") for number in range(52)]
    here = place_of(b'["acme-app","alice","tokens",1,""]', 1)

    async def take(some: Iterable[WindowMessage]) -> None:
        for one in sorted(some, key=lambda one: one.updated_at):
            await watch.take(encode_window(one), here, one.updated_at.timestamp())

    await take([*told, *others[:48]])
    watch.waited(here, 10_000)
    await watch.look([here], 1)
    assert kept.sent == []
    again = HoursWatch(states, kept, Names())  # after a restart
    watch = again
    await again.look([here], 1)
    await take(others[48:])
    await again.look([here], 1)
    assert [(one.found, one.window and one.window.subject, one.minute) for one in kept.sent] == [
        (Class.HOUR_DROP, "alice", START + 48 * HOUR)
    ]
    await take([window(number, 1, subject="bob") for number in range(52, 110)])
    await again.look([here], 1)
    assert b'["acme-app","alice","tokens",1,""]' not in states  # forgotten after two days


async def test_test_usage_wrong_clocks_and_what_is_no_window_are_passed_over() -> None:
    states = dict[bytes, bytes]()
    watch = HoursWatch(states, Kept(), Names())
    await watch.take(encode_window(window(0, 5, live=False)), 0, START.timestamp() + 3600)
    await watch.take(encode_window(window(0, 5)), 0, START.timestamp())
    await watch.take(b"{}", 0, START.timestamp())
    await watch.take(None, 0, START.timestamp())
    assert states == {}
