"""One spelling per document."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from services.invoicer.document import canonical, differences, exact_text, numbered

LONG = "12345678901234567890123456789012345678.123456789012345678"  # more digits than a plain Decimal context keeps


def test_the_same_content_in_another_order_has_the_same_bytes() -> None:
    one = canonical({"b": [1, {"d": None, "c": "₹"}], "a": True})
    assert one == '{"a":true,"b":[1,{"c":"₹","d":null}]}'.encode()
    assert one == canonical({"a": True, "b": [1, {"c": "₹", "d": None}]})


@pytest.mark.parametrize("value", [1.0, Decimal(1), date(2025, 10, 1), (1,), {1: "a"}])
def test_what_has_no_exact_spelling_is_refused_and_its_place_named(value: object) -> None:
    with pytest.raises(TypeError, match=r"document\.lines\.0"):
        canonical({"lines": [value]})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0"),
        ("-0.00", "0"),
        ("1E+3", "1000"),
        ("12.500", "12.5"),
        ("100", "100"),
        (
            "12345678901234567890123456789012345678.123456789012345678",
            "12345678901234567890123456789012345678.123456789012345678",
        ),
        ("-1.10", "-1.1"),
    ],
)
def test_a_number_has_one_spelling(value: str, text: str) -> None:
    assert exact_text(Decimal(value)) == text


def test_differences_are_named_by_place() -> None:
    stored = {"lines": [{"quantity": "1"}], "total": 5, "gone": 1}
    rebuilt = {"lines": [{"quantity": "2"}], "total": 5, "new": "x"}
    assert list(differences(stored, rebuilt)) == [
        "gone: stored 1, rebuilt null",
        'lines.0.quantity: stored "1", rebuilt "2"',
        'new: stored null, rebuilt "x"',
    ]
    assert list(differences([1], [1, 2], "lines")) == ["lines: stored [1], rebuilt [1, 2]"]
    assert list(differences({"a": True}, {"a": 1})) == ["a: stored true, rebuilt 1"]


def test_number_and_date_are_part_of_the_final_content() -> None:
    draft = {"number": None, "issued_on": None, "kind": "monthly"}
    final = numbered(draft, "KH/25-26/000001", date(2025, 11, 2))
    assert final == {"number": "KH/25-26/000001", "issued_on": "2025-11-02", "kind": "monthly"}
    assert draft["number"] is None
