"""Minor units, rounding, spreading and display of money."""

from __future__ import annotations

from decimal import Decimal, FloatOperation, Inexact, InvalidOperation, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.currencies import EXPONENTS
from shared.domain.errors import Rejected
from shared.domain.money import (
    EXACT,
    exponent,
    format_money,
    round_half_up,
    spread,
    to_decimal,
    to_major,
    to_minor,
    to_stored,
)

MINOR = st.integers(-(10**24), 10**24)
CURRENCIES = st.sampled_from(sorted(EXPONENTS))


@pytest.mark.parametrize(
    ("currency", "digits"), [("INR", 2), ("USD", 2), ("JPY", 0), ("KWD", 3), ("IQD", 3), ("AFN", 2), ("UYW", 4)]
)
def test_the_exponent_is_that_of_iso_4217(currency: str, digits: int) -> None:
    assert exponent(currency) == digits


@pytest.mark.parametrize("code", ["inr", "ANG", "XAU", "", "RUPEE"])
def test_a_code_that_is_no_active_currency_is_rejected(code: str) -> None:
    with pytest.raises(Rejected) as rejected:
        exponent(code)
    assert rejected.value.code == "unknown_currency"


def test_the_table_holds_every_active_code_once() -> None:
    assert len(EXPONENTS) == 17 + 139 + 7 + 2
    assert all(len(code) == 3 and code.isupper() for code in EXPONENTS)


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [
        ("4514.9935", "INR", 451499),
        ("245.896", "INR", 24590),
        ("0.005", "INR", 1),
        ("-0.005", "INR", -1),
        ("0.0049999999999999999999999999999999999999", "INR", 0),
        ("2.5", "JPY", 3),
        ("-2.5", "JPY", -3),
        ("1.2345", "KWD", 1235),
    ],
)
def test_a_half_goes_away_from_zero(amount: str, currency: str, minor: int) -> None:
    assert to_minor(Decimal(amount), currency) == minor


def test_an_amount_finer_than_the_default_context_is_rounded_once_and_right() -> None:
    # At 28 digits this reads ...0.005 and would round up.
    amount = Decimal("123456789012345678901234567.00499999999999")
    assert to_minor(amount, "INR") == 12345678901234567890123456700


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="not an amount"):
        to_minor(Decimal(text), "INR")


@given(MINOR, CURRENCIES)
def test_minor_to_major_and_back_is_the_same(minor: int, currency: str) -> None:
    assert to_minor(to_major(minor, currency), currency) == minor


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**15), max_value=10**15, places=7))
def test_an_amount_and_its_reversal_cancel(amount: Decimal) -> None:
    assert to_minor(amount, "INR") == -to_minor(-amount, "INR")
    assert abs(Fraction(amount) * 100 - to_minor(amount, "INR")) <= Fraction(1, 2)


@given(st.fractions(min_value=-(10**12), max_value=10**12, max_denominator=10**7), CURRENCIES)
def test_neither_60_digits_nor_12_decimals_change_how_a_quotient_rounds(exact: Fraction, currency: str) -> None:
    scaled = exact * 10 ** exponent(currency)
    once = (abs(scaled) + Fraction(1, 2)) // 1 * (1 if scaled >= 0 else -1)

    assert to_minor(to_decimal(exact), currency) == once
    assert to_minor(to_stored(to_decimal(exact)), currency) == once


def test_a_value_just_below_a_tie_is_not_stored_as_the_tie() -> None:
    assert to_minor(to_stored(Decimal("0.00499999999999999")), "INR") == 0
    assert to_minor(to_stored(Decimal("0.00500000000000001")), "INR") == 1


def test_an_amount_too_large_for_the_column_is_refused() -> None:
    assert to_stored(Decimal(10**26 - 1)) == 10**26 - 1
    with pytest.raises(InvalidOperation):
        to_stored(Decimal(10**26))


def test_the_exact_context_refuses_a_lost_digit_and_a_float() -> None:
    with localcontext(EXACT):
        with pytest.raises(Inexact):
            Decimal(1) / Decimal(3)
        with pytest.raises(FloatOperation):
            Decimal(0.1)


@given(st.integers(-(10**12), 10**12))
def test_round_half_up_of_a_whole_number_is_itself(number: int) -> None:
    assert round_half_up(Decimal(number)) == number


# --- spread -----------------------------------------------------------------------------------------------------


def test_a_discount_of_100_over_three_equal_lines_favours_the_earlier() -> None:
    assert spread(100, [1, 1, 1]) == [34, 33, 33]
    assert spread(-100, [1, 1, 1]) == [-34, -33, -33]


def test_the_largest_remainder_is_served_first() -> None:
    # quotas 1.5, 2.25, 6.25 -> 1, 2, 6 and one left for the first
    assert spread(10, [Decimal("1.5"), Decimal("2.25"), Decimal("6.25")]) == [2, 2, 6]


def test_a_weight_of_zero_takes_nothing() -> None:
    assert spread(7, [0, 3, 0]) == [0, 7, 0]
    assert spread(0, [0, 0]) == [0, 0]
    assert spread(0, []) == []


def test_something_over_nothing_cannot_be_spread() -> None:
    with pytest.raises(ValueError, match="sum to zero"):
        spread(1, [0, 0])
    with pytest.raises(ValueError, match="negative"):
        spread(1, [2, -1])


WEIGHTS = st.lists(st.integers(0, 10**9), min_size=1, max_size=12).filter(any)


@given(st.integers(-(10**14), 10**14), WEIGHTS)
def test_shares_sum_to_the_total_and_stay_within_one_of_their_quota(total: int, weights: list[int]) -> None:
    shares = spread(total, weights)

    assert sum(shares) == total
    whole = sum(weights)
    assert all(abs(share - Fraction(total * w, whole)) < 1 for share, w in zip(shares, weights, strict=True))


@given(st.data(), WEIGHTS)
def test_a_discount_never_exceeds_the_line_it_falls_on(data: st.DataObject, lines: list[int]) -> None:
    discount = data.draw(st.integers(0, sum(lines)))

    shares = spread(discount, lines)

    assert all(0 <= share <= line for share, line in zip(shares, lines, strict=True))


# --- display ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minor", "currency", "locale", "text"),
    [
        (12_345_678_950, "INR", "en_IN", "₹12,34,56,789.50"),
        (561_785, "INR", "hi_IN", "₹5,617.85"),
        (-5, "INR", "en_IN", "-₹0.05"),
        (1_235, "JPY", "en_US", "¥1,235"),
        (1_500, "IQD", "en_US", "IQD1.500"),  # CLDR would print 2
        (150, "AFN", "en_US", "AFN1.50"),  # CLDR would print 2
        (123_456, "EUR", "de_DE", "1.234,56\xa0€"),
    ],
)
def test_money_is_printed_with_all_its_digits(minor: int, currency: str, locale: str, text: str) -> None:
    assert format_money(minor, currency, locale) == text


@given(MINOR, CURRENCIES)
def test_what_is_printed_has_every_digit_of_the_amount(minor: int, currency: str) -> None:
    printed = "".join(c for c in format_money(minor, currency) if c.isdigit())
    assert int(printed) == abs(minor)
