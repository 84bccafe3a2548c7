"""A meter turns an event into an exact quantity, or says why it cannot."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from shared.domain.errors import Rejected
from shared.domain.identity import read_data
from shared.domain.meter import Meter, MeterIndex

TOKENS = Meter("tokens", 1, "Tokens", "llm", "sum", "usage.tokens")


def quantity(text: str) -> Decimal:
    return TOKENS.quantity(read_data(f'{{"usage": {{"tokens": {text}}}}}'.encode()))


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
        TOKENS.quantity(data)


def test_count_counts_whatever_the_data() -> None:
    assert Meter("n", 1, "n", "llm", "count", None).quantity(None) == 1


def test_an_event_feeds_every_meter_of_its_type_in_its_newest_version() -> None:
    newer = Meter("tokens", 2, "Tokens", "llm", "sum", "tokens")
    count, other = Meter("count", 1, "n", "llm", "count", None), Meter("other", 1, "n", "image", "count", None)
    index = MeterIndex.of([newer, other, TOKENS, count])
    assert index.of_type("llm") == (count, newer)
    with pytest.raises(Rejected) as refused:
        index.of_type("video")
    assert refused.value.code == "unknown_event_type"
