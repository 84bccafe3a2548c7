"""Months, local hours and financial years."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.errors import Rejected, Usage
from shared.domain.period import Month, day_start, indian_financial_year, local_hour_start, time_zone

KOLKATA = ZoneInfo("Asia/Kolkata")
NEW_YORK = ZoneInfo("America/New_York")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")  # moves its clocks by half an hour
ZONES = [
    KOLKATA,
    ZoneInfo("Asia/Kathmandu"),
    NEW_YORK,
    LORD_HOWE,
    ZoneInfo("America/Asuncion"),  # its summer begins at a midnight that does not exist
    ZoneInfo("America/Havana"),  # its summer ends by repeating the hour after midnight
    ZoneInfo("Africa/Monrovia"),  # -0:44:30 until 1972
    ZoneInfo("UTC"),
]
INSTANTS = st.datetimes(datetime(1965, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds it


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type, misc]


# --- months -----------------------------------------------------------------------------------------------------


def test_a_month_is_read_and_printed_the_same() -> None:
    assert Month.parse("2026-10") == Month(2026, 10)
    assert str(Month(2026, 2)) == "2026-02"


@pytest.mark.parametrize("text", ["2026-13", "2026-00", "0000-01", "2026-1", "26-10", "2026-10-01", "", "२०२६-१०"])
def test_what_is_no_month_says_what_to_type(text: str) -> None:
    with pytest.raises(Usage, match="type it as YYYY-MM"):
        Month.parse(text)


def test_a_month_in_kolkata_begins_at_1830_utc_of_the_day_before() -> None:
    assert Month(2026, 10).bounds(KOLKATA) == (utc(2026, 9, 30, 18, 30), utc(2026, 10, 31, 18, 30))


def test_march_in_new_york_is_an_hour_short() -> None:
    start, end = Month(2026, 3).bounds(NEW_YORK)
    assert end - start == timedelta(days=31, hours=-1)


@pytest.mark.parametrize("zone", ZONES, ids=str)
def test_months_tile_the_years(zone: ZoneInfo) -> None:
    month = Month(2022, 12)
    while month < Month(2027, 1):
        start, end = month.bounds(zone)
        assert end == month.next().bounds(zone)[0]
        assert Month.of(start, zone) == month
        assert Month.of(end - timedelta(microseconds=1), zone) == month
        assert local_hour_start(start, zone) == start  # usage by local hour never straddles a month
        month = month.next()


@given(st.integers(2, 9998), st.integers(1, 12))
def test_next_and_previous_undo_each_other(year: int, number: int) -> None:
    month = Month(year, number)
    assert month.next().previous() == month == month.previous().next()
    assert month.next().first_day - month.first_day == timedelta(days=month.days)
    assert month.last_day + timedelta(days=1) == month.next().first_day


def test_a_midnight_that_the_clocks_skip_is_the_moment_they_move() -> None:
    # Asuncion, Sunday 1 October 2023: 23:59:59 -04 was followed by 01:00:00 -03.
    assert day_start(date(2023, 10, 1), ZoneInfo("America/Asuncion")) == utc(2023, 10, 1, 4)
    # Toronto, 30 March 1919: from 23:30 of the day before straight to 00:30.
    assert day_start(date(1919, 3, 31), ZoneInfo("America/Toronto")) == utc(1919, 3, 31, 4, 30)


def test_a_midnight_that_comes_twice_is_the_first() -> None:
    # Havana, Sunday 1 November 2026: 01:00 -04 went back to 00:00 -05.
    assert day_start(date(2026, 11, 1), ZoneInfo("America/Havana")) == utc(2026, 11, 1, 4)


@pytest.mark.parametrize("name", ["Asia", "India/Mumbai", "../etc/passwd", "", "/etc/localtime"])
def test_an_unknown_time_zone_is_rejected(name: str) -> None:
    with pytest.raises(Rejected) as rejected:
        time_zone(name)
    assert rejected.value.code == "unknown_time_zone"


def test_a_known_time_zone_is_found() -> None:
    assert time_zone("Asia/Kolkata") is KOLKATA


# --- hours ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instant", "zone", "start"),
    [
        (utc(2026, 10, 31, 18, 29, 59, 999_999), "Asia/Kolkata", utc(2026, 10, 31, 17, 30)),
        (utc(2026, 10, 31, 18, 30), "Asia/Kolkata", utc(2026, 10, 31, 18, 30)),
        (utc(2026, 10, 31, 18, 14, 59), "Asia/Kathmandu", utc(2026, 10, 31, 17, 15)),
        (utc(2026, 10, 31, 18, 15), "Asia/Kathmandu", utc(2026, 10, 31, 18, 15)),
        # 1 November 2026: the hour from 01:00 comes twice in New York, and counts as two
        (utc(2026, 11, 1, 5, 30), "America/New_York", utc(2026, 11, 1, 5)),
        (utc(2026, 11, 1, 6, 30), "America/New_York", utc(2026, 11, 1, 6)),
        # 8 March 2026: 02:00 does not exist
        (utc(2026, 3, 8, 6, 59), "America/New_York", utc(2026, 3, 8, 6)),
        (utc(2026, 3, 8, 7, 1), "America/New_York", utc(2026, 3, 8, 7)),
        # 4 October 2026: Lord Howe goes from 02:00 to 02:30, so that hour lasts 30 minutes
        (utc(2026, 10, 3, 15, 45), "Australia/Lord_Howe", utc(2026, 10, 3, 15, 30)),
        # 5 April 2026: it goes from 02:00 back to 01:30; the second half hour is an hour of its own
        (utc(2026, 4, 4, 14, 59), "Australia/Lord_Howe", utc(2026, 4, 4, 14)),
        (utc(2026, 4, 4, 15, 10), "Australia/Lord_Howe", utc(2026, 4, 4, 15)),
        (utc(2026, 4, 4, 15, 40), "Australia/Lord_Howe", utc(2026, 4, 4, 15, 30)),
        (utc(1971, 6, 1, 0, 44, 29), "Africa/Monrovia", utc(1971, 5, 31, 23, 44, 30)),
    ],
)
def test_the_local_hour_starts(instant: datetime, zone: str, start: datetime) -> None:
    assert local_hour_start(instant, ZoneInfo(zone)) == start


@given(INSTANTS, st.sampled_from(ZONES))
def test_local_hours_tile_and_lie_in_one_hour_of_one_local_day(instant: datetime, zone: ZoneInfo) -> None:
    start = local_hour_start(instant, zone)

    assert timedelta(0) <= instant - start < timedelta(hours=1)
    assert local_hour_start(start, zone) == start
    before = start - timedelta(microseconds=1)
    assert local_hour_start(before, zone) < start
    shown, first = instant.astimezone(zone), start.astimezone(zone)
    assert (shown.date(), shown.hour, shown.utcoffset()) == (first.date(), first.hour, first.utcoffset())


@given(INSTANTS)
def test_an_hour_in_india_never_straddles_midnight(instant: datetime) -> None:
    start = local_hour_start(instant, KOLKATA)
    last = start + timedelta(hours=1) - timedelta(microseconds=1)

    assert start.astimezone(KOLKATA).date() == last.astimezone(KOLKATA).date() == instant.astimezone(KOLKATA).date()


def test_an_instant_given_in_another_zone_is_the_same_instant() -> None:
    assert local_hour_start(utc(2026, 10, 31, 18, 45).astimezone(NEW_YORK), KOLKATA) == utc(2026, 10, 31, 18, 30)


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        local_hour_start(datetime(2026, 10, 1), KOLKATA)  # noqa: DTZ001 - the point of the test


# --- financial years --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "year"),
    [
        (date(2026, 3, 31), "2025-26"),
        (date(2026, 4, 1), "2026-27"),
        (date(2027, 1, 1), "2026-27"),
        (date(1999, 4, 1), "1999-00"),
    ],
)
def test_the_financial_year_turns_on_the_first_of_april(day: date, year: str) -> None:
    assert indian_financial_year(day) == year
