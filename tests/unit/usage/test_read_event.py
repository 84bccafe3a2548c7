"""One record of usage.events.v1 becomes an event under a catalogue, or is rejected with a code."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from shared.domain.errors import Rejected
from shared.domain.meter import Meter, MeterIndex
from shared.domain.period import Month
from shared.usage.event import Metering, Owner, read_event
from shared.usage.fold import fold
from tests.support.usage import stamped

TOKENS = Meter("tokens", 1, "Tokens", "api.request", "sum", "tokens")
REQUESTS = Meter("requests", 1, "Requests", "api.request", "count", None)
INDIA, NEPAL = Owner("acme", ZoneInfo("Asia/Kolkata")), Owner("yeti", ZoneInfo("Asia/Kathmandu"))
METERING = Metering({"acme-app": INDIA, "yeti-app": NEPAL}, MeterIndex.of([TOKENS, REQUESTS]))

LAST = datetime(2026, 10, 31, 18, 29, 59, 999999, tzinfo=UTC)
FIRST = datetime(2026, 10, 31, 18, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("time", "project", "hour", "month"),
    [
        (LAST, "acme-app", LAST.replace(hour=17, minute=30, second=0, microsecond=0), Month(2026, 10)),
        (FIRST, "acme-app", FIRST, Month(2026, 11)),
        (LAST, "yeti-app", datetime(2026, 10, 31, 18, 15, tzinfo=UTC), Month(2026, 11)),
    ],
)
def test_an_event_belongs_to_the_local_hour_and_month_of_its_organisation(
    time: datetime, project: str, hour: datetime, month: Month
) -> None:
    event = read_event(stamped("1", time=time, project=project), METERING)
    assert (event.hour, event.month) == (hour, month)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "malformed"),
        (b"", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"{", "malformed"),
        (b"[]", "malformed"),
        (stamped("1").replace(b'"time":"2026-10-15T06:30:00Z"', b'"time":"2026-10-15T06:30:00"'), "malformed"),
        (stamped("1").replace(b'"time":"2026-10-15T06:30:00Z"', b'"time":"9999-12-31T23:59:59Z"'), "malformed"),
        (stamped("1").replace(b'"time":"2026-10-15T06:30:00Z"', b'"time":"0001-01-01T00:00:00+14:00"'), "malformed"),
        (stamped("1", data=b'{"tokens":1e99999999999999999999}'), "malformed"),
        (stamped("1", data=b'{"a":' * 70 + b"1" + b"}" * 70), "malformed"),
        (stamped("1", subject="a\x00b"), "malformed"),
        (stamped("1", project="nobody"), "unknown_project"),
        (stamped("1", type="other"), "unknown_event_type"),
        (stamped("1", tokens="many"), "bad_value"),
        (stamped("1", data=b"{}"), "bad_value"),
    ],
)
def test_every_wrong_record_is_rejected_and_none_stops_the_reader(value: bytes | None, code: str) -> None:
    with pytest.raises(Rejected) as refused:
        read_event(value, METERING)
    assert refused.value.code == code


def test_an_event_feeds_every_meter_of_its_type_and_sums_are_exact() -> None:
    values = ["0.1", "0.2", "0.000000000000000001", "10000000000000000000", "-5"]
    deltas = fold(read_event(stamped(value, data=b'{"tokens":%s}' % value.encode()), METERING) for value in values)
    sums = {key.meter_id: (delta.count, delta.sum) for key, delta in deltas.items()}
    assert sums == {"requests": (5, Decimal(5)), "tokens": (5, Decimal("9999999999999999995.300000000000000001"))}
