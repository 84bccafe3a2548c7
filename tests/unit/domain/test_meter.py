"""A meter turns an event into an exact quantity, or says why it cannot."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from shared.domain.errors import Rejected
from shared.domain.filter import Filter
from shared.domain.identity import read_data
from shared.domain.meter import Meter, MeterIndex, Reading

TOKENS = Meter("tokens", 1, "Tokens", "llm", "sum", "usage.tokens")


def quantity(text: str) -> Decimal:
    return TOKENS.value(read_data(f'{{"usage": {{"tokens": {text}}}}}'.encode()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1", "0.1"),
        ("-7", "-7"),
        ("-0.5", "-0.5"),
        ("10000000000000000000", "10000000000000000000"),
        ("1e19", "10000000000000000000"),
        ("99999999999999999999.999999999999999999", "99999999999999999999.999999999999999999"),
        ("0.000000000000000001", "0.000000000000000001"),
        ('"2.5"', "2.5"),
        ('"1E3"', "1000"),
        ('"0e9999"', "0"),
        ("0", "0"),
    ],
)
def test_quantities_are_exact(text: str, expected: str) -> None:
    assert quantity(text) == Decimal(expected)


@pytest.mark.parametrize(
    "text",
    [
        "true",
        "null",
        "[]",
        "{}",
        '""',
        '"abc"',
        '"1_000"',
        '"١٢"',
        '" 5"',
        '"NaN"',
        '"Infinity"',
        '"1e9999999"',
        "1e20",
        "100000000000000000000",
        "0.0000000000000000001",
        "1e9999999",
        "-1e9999999",
        "1e-9999999",
        "9" * 30,
    ],
)
def test_what_is_no_quantity_is_rejected_with_the_path(text: str) -> None:
    with pytest.raises(Rejected, match=r"data\.usage\.tokens") as refused:
        quantity(text)
    assert refused.value.code == "bad_value"


@pytest.mark.parametrize("data", [{}, {"usage": 5}, {"usage": {}}, [], None, {"usage": [{"tokens": 1}]}])
def test_a_missing_value_is_rejected(data: Any) -> None:
    with pytest.raises(Rejected, match="it is missing"):
        TOKENS.value(data)


def test_count_counts_whatever_the_data() -> None:
    meter = Meter("n", 1, "n", "llm", "count", None)
    assert meter.reading(None) == Reading(meter, Decimal(1))


def test_an_event_feeds_every_meter_of_its_type_in_its_newest_version() -> None:
    newer = Meter("tokens", 2, "Tokens", "llm", "sum", "tokens")
    count, other = Meter("count", 1, "n", "llm", "count", None), Meter("other", 1, "n", "image", "count", None)
    index = MeterIndex.of([newer, other, TOKENS, count])
    assert index.of_type("llm") == (count, newer)
    with pytest.raises(Rejected) as refused:
        index.of_type("video")
    assert refused.value.code == "unknown_event_type"


HOUR = datetime(2026, 10, 1, 12, tzinfo=UTC)


def test_a_version_counts_from_its_hour_until_the_next_one_begins() -> None:
    first = Meter("tokens", 1, "T", "llm", "count", None)
    second = Meter("tokens", 2, "T", "llm", "sum", "tokens", effective_from=HOUR)
    index = MeterIndex.of([second, first])
    data = {"tokens": 7}
    assert [(r.meter.version, r.value) for r in index.readings("llm", HOUR - timedelta(hours=1), data)] == [(1, 1)]
    assert [(r.meter.version, r.value) for r in index.readings("llm", HOUR, data)] == [(2, 7)]


@pytest.mark.parametrize(("sent", "taken"), [(-5, 0), (0, 0), (7, 7), (10, 10), (11, 10)])
def test_a_value_beyond_its_clamp_is_taken_as_the_bound(sent: int, taken: int) -> None:
    meter = Meter("t", 1, "T", "llm", "sum", "v", clamp_min=Decimal(0), clamp_max=Decimal(10))
    assert meter.value({"v": sent}) == taken


@pytest.mark.parametrize(
    ("condition", "passing", "left_out"),
    [
        (Filter("m", "in", ("a", 1)), [{"m": "a"}, {"m": 1}], [{"m": "1"}, {"m": True}, {"m": "b"}, {}]),
        (Filter("m", "not_in", ("a",)), [{"m": "b"}, {}, {"m": None}], [{"m": "a"}]),
        (Filter("m.n", "exists"), [{"m": {"n": None}}], [{"m": {}}, {"m": 1}, {}, None]),
        (Filter("m", "missing"), [{}, None], [{"m": None}]),
        (Filter("m", "at_least", (2,)), [{"m": 2}, {"m": Decimal("2.5")}], [{"m": 1}, {"m": "3"}, {"m": True}, {}]),
        (Filter("m", "below", (Decimal("2.5"),)), [{"m": 2}, {"m": -7}], [{"m": Decimal("2.5")}, {"m": "1"}, {}]),
    ],
)
def test_a_filter_leaves_out_what_does_not_pass(condition: Filter, passing: list[Any], left_out: list[Any]) -> None:
    meter = Meter("t", 1, "T", "llm", "count", None, filters=(condition,))
    assert all(meter.reading(data) is not None for data in passing)
    assert all(meter.reading(data) is None for data in left_out)


def test_dimensions_are_told_in_one_spelling_and_what_is_missing_is_null() -> None:
    meter = Meter("t", 1, "T", "llm", "count", None, group_by=(("model", "m"), ("region", "where.region")))

    def dimensions(text: str) -> str:
        reading = meter.reading(read_data(text.encode()))
        assert reading is not None
        return reading.dimensions

    assert dimensions('{"where": {"region": 1.50}, "m": "a"}') == '{"model":"a","region":1.5}'
    assert dimensions("{}") == '{"model":null,"region":null}'
    for bad in ('{"m": [1]}', '{"m": {"a": 1}}', '{"m": "%s"}' % ("x" * 257), '{"m": "a\\u0000"}'):
        with pytest.raises(Rejected) as refused:
            dimensions(bad)
        assert refused.value.code == "bad_value"


def test_unique_count_tells_texts_numbers_and_booleans_apart_and_one_number_from_no_spelling_of_it() -> None:
    meter = Meter("u", 1, "U", "llm", "unique_count", "v")

    def distinct(text: str) -> bytes:
        reading = meter.reading(read_data(f'{{"v": {text}}}'.encode()))
        assert reading is not None
        return reading.distinct

    assert len({distinct(text) for text in ('"1"', "1", "true", '"true"', "1.5", '"1.5"')}) == 6
    assert distinct("1.0") == distinct("1") == distinct("10e-1")
    for bad in ("null", "[]", "{}"):
        with pytest.raises(Rejected):
            distinct(bad)
