"""What is unusual about a key: nothing in a steady hour, one finding for each thing that is planted."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.aggregator.watch import detect
from services.aggregator.watch.state import KeyState, decode_state, encode_state
from shared.contracts.messages.activity import UNKNOWN, KeyActivity
from shared.contracts.messages.anomaly import Class
from tests.support.activity import HOME, KEY, START, minute, play, steady

AWAY = ("p1.ffffffffffffffff",)

few = settings(max_examples=30, deadline=None)
noisy_hours = st.lists(st.integers(60, 180), min_size=60, max_size=60)


def hour(counts: list[int], processes: int = 1) -> list[KeyActivity]:
    """The events of each minute, told by so many processes."""
    return [
        minute(number, events // processes + (events % processes if process == 0 else 0), process_id=f"i{process}")
        for number, events in enumerate(counts)
        for process in range(processes)
    ]


def classes(records: list[KeyActivity], idle_minutes: int = 2) -> list[Class]:
    return [one.found for one in play(records, idle_minutes)]


@few
@given(noisy_hours, st.integers(1, 4), st.integers(0, 4), st.integers(0, 9))
def test_a_steady_hour_gives_no_finding(counts: list[int], processes: int, failed: int, idle: int) -> None:
    records = [
        minute(number, events, process_id=f"i{process}", failed={"unauthenticated": failed})
        for number, events in enumerate(counts)
        for process in range(processes)
    ]
    assert play(records, idle) == []


@few
@given(noisy_hours, st.integers(1, 4), st.integers(2_000, 10**9), st.integers(1, 30))
def test_a_planted_spike_is_found_once_however_long_it_lasts(
    counts: list[int], processes: int, events: int, lasts: int
) -> None:
    found = play([*hour(counts, processes), *steady(lasts, events, first=60)], 2)
    assert [(one.found, one.minute) for one in found] == [(Class.SPIKE, START + timedelta(minutes=60))]
    assert found[0].observed == events
    assert 60 <= found[0].usual <= 180


@few
@given(noisy_hours, st.integers(1, 4), st.integers(30, 120))
def test_a_producer_that_stops_is_found_once_and_not_again_until_it_came_back(
    counts: list[int], processes: int, silent: int
) -> None:
    found = play(hour(counts, processes), silent)
    assert [(one.found, one.minute) for one in found] == [(Class.SILENT, START + timedelta(minutes=60))]
    assert found[0].usual == 1


@few
@given(noisy_hours, st.integers(1, 4), st.integers(1, 10))
def test_a_new_address_is_found_once_and_then_known(counts: list[int], processes: int, uses: int) -> None:
    found = play([*hour(counts, processes), *steady(uses, first=60, addresses=HOME + AWAY)], 2)
    assert [(one.found, one.address) for one in found] == [(Class.NEW_ADDRESS, AWAY[0])]


@few
@given(noisy_hours, st.integers(20, 10**6), st.integers(1, 20))
def test_a_burst_of_failures_is_found_once_however_long_it_lasts(counts: list[int], failed: int, lasts: int) -> None:
    burst = steady(lasts, 0, first=60, calls=failed + 5, failed={"unauthenticated": failed})
    found = play([*hour(counts), *burst], 2)
    kinds = [one.found for one in found if one.found is not Class.SILENT]  # a burst sends no events
    assert kinds == [Class.FAILURE_BURST]
    assert "unauthenticated" in found[0].text


@few
@given(noisy_hours, st.randoms(use_true_random=False))
def test_what_is_read_again_after_a_crash_finds_nothing_else(counts: list[int], chance: random.Random) -> None:
    records = [*hour(counts, 2), minute(60, 5_000), *steady(30, first=62, addresses=HOME + AWAY)]
    once = play(records, 40)
    assert [one.found for one in once] == [Class.SPIKE, Class.NEW_ADDRESS, Class.SILENT]
    repeated = [each for record in records for each in [record] * chance.randint(1, 3)]
    assert play(repeated, 40) == once
    crash = chance.randrange(20, len(records))
    assert play([*records[:crash], *records[crash - 20 : crash], *records[crash:]], 40) == once


@few
@given(noisy_hours, st.randoms(use_true_random=False))
def test_in_which_order_processes_tell_of_a_minute_does_not_matter(counts: list[int], chance: random.Random) -> None:
    counts = [*counts, 9_000, *counts[:5]]
    shuffled = []
    for at in range(0, len(told := hour(counts, 3)), 3):
        shuffled += chance.sample(told[at : at + 3], 3)
    assert {one.id for one in play(shuffled, 20)} == {one.id for one in play(told, 20)}


def test_the_first_hour_of_a_key_is_learned_silently() -> None:
    addresses = [(f"p1.{number:016x}",) for number in range(60)]
    assert classes([minute(number, addresses=addresses[number]) for number in range(60)]) == []


def test_after_a_change_of_the_pepper_addresses_are_learned_silently_again() -> None:
    other = [minute(number, addresses=(f"p2.{number % 7:016x}",)) for number in range(100, 200)]
    assert classes([*steady(100), *other]) == []
    later = minute(300, addresses=("p2.aaaaaaaaaaaaaaaa",))
    assert classes([*steady(100), *other, *steady(100, first=200, addresses=("p2." + "0" * 16,)), later]) == [
        Class.NEW_ADDRESS
    ]


def test_an_address_that_was_not_used_for_fourteen_days_is_new_again() -> None:
    day = 24 * 60

    def used_again(after_days: int) -> list[Class]:
        hours = [minute(number) for number in range(0, after_days * day, 60)]
        back = minute(after_days * day, addresses=AWAY)
        return classes([*steady(1, addresses=HOME + AWAY), *hours, back])

    assert used_again(13) == []
    assert used_again(14) == [Class.NEW_ADDRESS]


def test_a_key_that_the_public_uses_says_nothing_with_another_address() -> None:
    many = [minute(n, addresses=tuple(f"p1.{n}-{k}" for k in range(30)), addresses_overflow=n > 9) for n in range(120)]
    assert classes(many) == []


@pytest.mark.parametrize(("events", "every"), [(1, 1), (100, 5), (50_000, 60)])
def test_who_sends_seldom_is_compared_with_its_own_seldom_minutes(events: int, every: int) -> None:
    records = [minute(number, events) for number in range(0, 60 * every, every)]
    assert classes(records, every * 2) == []
    assert classes(records, every * 4 + 20) == [Class.SILENT]


def test_nights_are_learned_from_the_first_one() -> None:
    day = 24 * 60
    state, told = KeyState(), []
    for number in range(0, 3 * day, 2):
        if number % day < 9 * 60:  # office hours
            state, _ = detect.observe(state, minute(number))
        state, found = detect.advance(state, KEY, minute(number).minute.timestamp() + 90)
        told += found
    assert [(one.found, one.minute) for one in told] == [(Class.SILENT, START + timedelta(minutes=9 * 60 - 1))]


def test_a_level_that_lasts_becomes_the_usual() -> None:
    assert classes([*steady(60, 100), *steady(200, 5_000, first=60), minute(261, 6_000)]) == [Class.SPIKE]


def test_failures_of_ours_and_strangers_addresses_are_no_findings_about_a_key() -> None:
    away = steady(5, 0, first=60, calls=500, failed={"unavailable": 500})
    assert classes([*steady(), *away]) == []
    strangers = [
        minute(number, 0, key_id=UNKNOWN, addresses=(f"p1.{number}",), calls=3, failed={"unauthenticated": 3})
        for number in range(200)
    ]
    assert classes(strangers) == []


def test_a_state_is_the_same_after_it_was_written_and_read() -> None:
    state = KeyState()
    for record in [*steady(), minute(60, 5_000, failed={"malformed": 70}, calls=80, addresses=AWAY)]:
        state, _ = detect.observe(state, record)
        state, _ = detect.advance(state, KEY, record.minute.timestamp() + 60)
    assert decode_state(encode_state(state)) == state
    assert len(encode_state(state)) < 3_000
