"""What is due when, and what an operator means by a period."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.aggregator.reconcile.commands import period_of
from services.aggregator.reconcile.record import Period
from services.aggregator.reconcile.schedule import DAILY_AFTER, DAYS_BACK, HOURS_BACK, MOST_HOURS, SETTLED, due
from shared.domain.errors import Usage

DAY = datetime(2026, 11, 20, tzinfo=UTC)
HOUR = timedelta(hours=1)


def at(hour: int, minute: int = 0) -> datetime:
    return DAY + timedelta(hours=hour, minutes=minute)


def test_an_hour_is_looked_at_once_it_has_settled_and_again_in_the_next_runs() -> None:
    done = {"hourly": at(11), "daily": DAY}
    assert due(at(12) + SETTLED - timedelta(seconds=1), done) is None
    found = due(at(12) + SETTLED, done)
    assert found == ("hourly", Period(at(12) - HOURS_BACK * HOUR, at(12)))
    assert due(at(12) + SETTLED, done | {"hourly": at(12)}) is None


def test_after_a_stop_every_hour_since_is_looked_at_up_to_a_limit() -> None:
    found = due(at(12, 30), {"hourly": at(5), "daily": DAY})
    assert found is not None
    assert found.period == Period(at(5) - (HOURS_BACK - 1) * HOUR, at(12))
    long = due(at(12, 30), {"hourly": DAY - timedelta(days=30), "daily": DAY})
    assert long is not None
    assert long.period == Period(at(12) - MOST_HOURS * HOUR, at(12))


def test_the_days_are_looked_at_in_full_soon_after_midnight_and_after_the_hours() -> None:
    done = {"hourly": at(1), "daily": DAY - timedelta(days=1)}
    assert due(DAY + DAILY_AFTER - timedelta(seconds=1), done | {"hourly": at(2)}) is None
    now = DAY + DAILY_AFTER + SETTLED
    first = due(now, done)
    assert first is not None
    assert first.kind == "hourly"
    second = due(now, done | {"hourly": at(2)})
    assert second == ("daily", Period(DAY - timedelta(days=DAYS_BACK), DAY))
    assert due(now, {"hourly": at(2), "daily": DAY}) is None


NOW = datetime(2026, 11, 20, 21, 0, tzinfo=UTC)  # the 21st in India


@pytest.mark.parametrize(
    ("since", "until", "zone", "start", "end"),
    [
        (None, None, "UTC", "2026-11-19T00:00:00+00:00", "2026-11-20T00:00:00+00:00"),
        (None, None, "Asia/Kolkata", "2026-11-19T18:30:00+00:00", "2026-11-20T18:30:00+00:00"),
        ("2026-11-01", "2026-11-02", "UTC", "2026-11-01T00:00:00+00:00", "2026-11-03T00:00:00+00:00"),
        ("2026-11-01", "2026-11-01", "Asia/Kolkata", "2026-10-31T18:30:00+00:00", "2026-11-01T18:30:00+00:00"),
        ("24h", None, "UTC", "2026-11-19T21:00:00+00:00", "2026-11-20T21:00:00+00:00"),
        (None, "2026-11-05", "UTC", "2026-11-05T00:00:00+00:00", "2026-11-06T00:00:00+00:00"),
        ("2026-11-05T10:00:00+05:30", "2026-11-05T11:00:00+05:30", "UTC", "2026-11-05T04:30:00+00:00",
         "2026-11-05T05:30:00+00:00"),
    ],
)  # fmt: skip
def test_days_are_whole_and_instants_are_taken_as_they_are(
    since: str | None, until: str | None, zone: str, start: str, end: str
) -> None:
    found = period_of(since, until, NOW, zone)
    assert (found.start, found.end) == (datetime.fromisoformat(start), datetime.fromisoformat(end))


@pytest.mark.parametrize(("since", "until"), [("2026-11-05", "2026-11-04"), ("yesterday", None), ("1h", "2h")])
def test_what_is_no_period_is_refused(since: str, until: str | None) -> None:
    with pytest.raises(Usage):
        period_of(since, until, NOW, "UTC")
