"""Billing time: months, local hours and financial years in an organisation's own time zone.

Instants are aware datetimes in UTC; local days are `date`. India is +05:30, so an hour of UTC would straddle
its midnight: usage is kept by local hour, and a month of it is a whole number of local hours.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from shared.domain.errors import Rejected, Usage

_MONTH = re.compile(r"([0-9]{4})-([0-9]{2})")
_SECOND = timedelta(seconds=1)
# The last offset that was no whole number of minutes (Liberia, -0:44:30) ended in January 1972.
_WHOLE_MINUTES_SINCE = datetime(1973, 1, 1, tzinfo=UTC)


def time_zone(name: str) -> ZoneInfo:
    """The IANA zone `name` ("Asia/Kolkata"). Raises `Rejected("unknown_time_zone")`."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, not a relative path, a directory ("Asia")
        raise Rejected("unknown_time_zone", f"{name!r} is not an IANA time zone; write it like Asia/Kolkata") from None


@dataclass(frozen=True, order=True, slots=True)
class Month:
    """A calendar month, the period of an invoice; `str()` of it is what `parse` reads. ValueError if there is none."""

    year: int
    month: int

    def __post_init__(self) -> None:
        date(self.year, self.month, 1)

    def __str__(self) -> str:
        return f"{self.year:04}-{self.month:02}"

    @classmethod
    def parse(cls, text: str) -> Month:
        """Month of "2026-10". Raises `Usage`."""
        matched = _MONTH.fullmatch(text)
        try:
            if matched:
                return cls(int(matched[1]), int(matched[2]))
        except ValueError:
            pass  # month 13 or year 0: told below, like any other text that is no month
        raise Usage(f"{text!r} is not a month; type it as YYYY-MM, for example 2026-10")

    @classmethod
    def of(cls, instant: datetime, zone: ZoneInfo) -> Month:
        """The month that the clocks of `zone` show at `instant`."""
        local = _aware(instant).astimezone(zone)
        return cls(local.year, local.month)

    @property
    def first_day(self) -> date:
        return date(self.year, self.month, 1)

    @property
    def last_day(self) -> date:
        return date(self.year, self.month, self.days)

    @property
    def days(self) -> int:
        """How many days it has, 28 to 31."""
        return monthrange(self.year, self.month)[1]

    def next(self) -> Month:
        return Month(self.year + self.month // 12, self.month % 12 + 1)

    def previous(self) -> Month:
        return Month(self.year - (self.month == 1), (self.month - 2) % 12 + 1)

    def bounds(self, zone: ZoneInfo) -> tuple[datetime, datetime]:
        """(first instant in UTC, first instant of the next month): half-open, months tile time in every zone."""
        return day_start(self.first_day, zone), day_start(self.next().first_day, zone)


def day_start(day: date, zone: ZoneInfo) -> datetime:
    """UTC instant at which `day` starts in `zone`.

    A midnight that a change of the clocks skips is the moment of that change; of one that comes twice, the first.
    """
    midnight = datetime.combine(day, time.min)
    start = midnight.replace(tzinfo=zone).astimezone(UTC)
    if start.astimezone(zone).replace(tzinfo=None) == midnight:
        return start
    # Inside a gap fold=1 reads the wall clock with the later offset, which is an instant before the change.
    before = midnight.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return _first(before, start, lambda instant: instant.astimezone(zone).replace(tzinfo=None) >= midnight)


def local_hour_start(instant: datetime, zone: ZoneInfo) -> datetime:
    """UTC instant at which the local hour that contains `instant` starts.

    The hours tile time: each is 60 minutes or shorter and lies in one hour of one local day. An hour that the
    clocks repeat counts as two; where they change inside an hour (Lord Howe), a new one starts at the change.
    Raises ValueError for a naive datetime.
    """
    instant = _aware(instant)
    if instant < _WHOLE_MINUTES_SINCE:
        return _hour_start(instant.astimezone(UTC), zone)
    # Every instant of a minute lies in the same local hour, so the answer is kept per minute.
    return _hour_start_of_minute(int(instant.timestamp()) // 60, zone)


@lru_cache(maxsize=16_384)
def _hour_start_of_minute(minute: int, zone: ZoneInfo) -> datetime:
    return _hour_start(datetime.fromtimestamp(minute * 60, UTC), zone)


def _hour_start(instant: datetime, zone: ZoneInfo) -> datetime:
    local = instant.astimezone(zone)
    start = instant - timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
    offset = local.utcoffset()
    if start.astimezone(zone).utcoffset() == offset:
        return start
    return _first(start, instant, lambda moment: moment.astimezone(zone).utcoffset() == offset)


class LocalHour(NamedTuple):
    """A local hour: the UTC instant at which it starts, and the month it belongs to."""

    start: datetime
    month: Month


class LocalHours:
    """Local hours of one zone, kept by minute: looked up for every event. Not for several threads."""

    MOST = 16_384

    def __init__(self, zone: ZoneInfo) -> None:
        self._zone = zone
        self._of_minute: dict[int, LocalHour] = {}

    def of(self, instant: datetime) -> LocalHour:
        """The hour that contains the aware instant. Raises OverflowError when it is outside the calendar."""
        minute = int(instant.timestamp()) // 60
        return self._of_minute.get(minute) or self._find(minute, instant)

    def _find(self, minute: int, instant: datetime) -> LocalHour:
        start = local_hour_start(instant, self._zone)
        found = LocalHour(start, Month.of(start, self._zone))  # months begin with local hours
        if instant >= _WHOLE_MINUTES_SINCE:
            if len(self._of_minute) >= self.MOST:
                self._of_minute.clear()
            self._of_minute[minute] = found
        return found


Window = Literal["hour", "day", "month", "period"]
MAX_WINDOWS = 10_000


def split(start: datetime, end: datetime, window: Window, zone: ZoneInfo) -> list[tuple[datetime, datetime]]:
    """[start, end) in windows of the zone; the first and the last are cut off by the period.

    Raises Usage: bounds that are no starts of local hours (usage is not kept finer), nothing between them, too many
    windows.
    """
    for name, instant in (("start", start), ("end", end)):
        if local_hour_start(instant, zone) != instant:
            raise Usage(f"{name}: {instant.isoformat()} is not the start of an hour in {zone.key}")
    if start >= end:
        raise Usage("end: must be after start")
    found = []
    while start < end:
        after = min(end, _window_end(start, window, zone) or end)
        found.append((start, after))
        if len(found) > MAX_WINDOWS:
            raise Usage(f"window: more than {MAX_WINDOWS} of them; ask for longer windows or a shorter period")
        start = after
    return found


def _window_end(start: datetime, window: Window, zone: ZoneInfo) -> datetime | None:
    local = start.astimezone(zone)
    match window:
        case "hour":
            after = start + timedelta(hours=1)
            begins = local_hour_start(after, zone)
            return begins if begins > start else after  # clocks that change inside an hour
        case "day":
            return day_start(local.date() + timedelta(days=1), zone)
        case "month":
            return Month(local.year, local.month).bounds(zone)[1]
        case "period":
            return None


def indian_financial_year(day: date) -> str:
    """Financial year (1 April to 31 March) of a date in India, as printed in invoice numbers: "2026-27".

    `day` is the local date in Asia/Kolkata (CGST Rule 46: serial numbers are unique for a financial year).
    """
    first = day.year if day.month >= 4 else day.year - 1
    return f"{first:04}-{(first + 1) % 100:02}"


def _aware(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError(f"{instant.isoformat()} has no time zone")
    return instant


def _first(before: datetime, after: datetime, holds: Callable[[datetime], bool]) -> datetime:
    """First whole second in (before, after] for which `holds`; it holds at `after`, not at `before`."""
    before, after = before.replace(microsecond=0), after.replace(microsecond=0)  # clocks change on whole seconds
    while after - before > _SECOND:
        middle = before + (after - before) // _SECOND // 2 * _SECOND
        if holds(middle):
            after = middle
        else:
            before = middle
    return after
