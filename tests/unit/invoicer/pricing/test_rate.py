"""Exact prices of quantities."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.invoicer.pricing import Flat, PerUnit, Price, line_amount_minor, parse_price, price_definition, rate
from shared.domain.errors import Rejected

PER_MILLION = PerUnit(Decimal("250.00"), Decimal(1_000_000))
AMOUNTS = st.decimals(0, 10**9, allow_nan=False, allow_infinity=False, places=6)
QUANTITIES = st.decimals(0, 10**15, allow_nan=False, allow_infinity=False, places=6)
PRICES: st.SearchStrategy[Price] = st.one_of(
    st.builds(PerUnit, AMOUNTS, st.integers(1, 10**7).map(Decimal)), st.builds(Flat, AMOUNTS)
)


def test_a_price_per_million_stays_exact() -> None:
    priced = rate(PER_MILLION, Decimal(18_059_974))

    assert priced.amount == Decimal("4514.9935")
    (part,) = priced.breakdown
    assert (part.quantity, part.unit_amount, part.per) == (Decimal(18_059_974), Decimal("250.00"), Decimal(1_000_000))
    assert part.amount == priced.amount


def test_zero_usage_is_a_zero_line() -> None:
    assert rate(PER_MILLION, Decimal(0)).amount == 0
    assert line_amount_minor(rate(PER_MILLION, Decimal(0)), "INR") == 0


def test_a_price_of_zero_is_a_price() -> None:
    assert rate(PerUnit(Decimal(0)), Decimal(10**12)).amount == 0


@pytest.mark.parametrize("quantity", ["-0.000001", "NaN", "Infinity"])
@pytest.mark.parametrize("price", [PER_MILLION, Flat(Decimal(10))])
def test_a_quantity_below_zero_is_rejected(price: Price, quantity: str) -> None:
    with pytest.raises(Rejected) as rejected:
        rate(price, Decimal(quantity))
    assert rejected.value.code == "invalid_quantity"


def test_a_line_rounds_once_and_not_its_price_first() -> None:
    # 0.0049 each, 3 of them: 0.0147 is 1 paisa; rounding the unit price first would give 0
    assert line_amount_minor(rate(PerUnit(Decimal("0.0049")), Decimal(3)), "INR") == 1


def test_a_quotient_without_end_rounds_as_the_fraction_does() -> None:
    # 0.005 per 3: two units are 0.00333.., three are exactly the half that goes up
    assert line_amount_minor(rate(PerUnit(Decimal("0.005"), Decimal(3)), Decimal(2)), "INR") == 0
    assert line_amount_minor(rate(PerUnit(Decimal("0.005"), Decimal(3)), Decimal(3)), "INR") == 1


def test_a_flat_fee_is_shared_by_days() -> None:
    fee = Flat(Decimal("1000.00"))
    assert rate(fee, Decimal(1)).amount == Decimal(1000)
    # 15/31 of 1000 is 483.8709..; 16/31 is 516.1290..
    assert line_amount_minor(rate(fee, Decimal(1), Fraction(15, 31)), "INR") == 48_387
    assert line_amount_minor(rate(fee, Decimal(1), Fraction(16, 31)), "INR") == 51_613


def test_a_share_above_the_month_is_refused() -> None:
    with pytest.raises(ValueError, match="share"):
        rate(Flat(Decimal(1)), Decimal(1), Fraction(32, 31))


def test_the_share_of_the_month_leaves_metered_prices_alone() -> None:
    assert rate(PER_MILLION, Decimal(7), Fraction(1, 31)) == rate(PER_MILLION, Decimal(7))


@given(QUANTITIES, QUANTITIES, AMOUNTS, st.integers(1, 10**7))
def test_a_per_unit_line_is_within_half_a_paisa_and_never_falls_with_quantity(
    quantity: Decimal, more: Decimal, unit_amount: Decimal, per: int
) -> None:
    price = PerUnit(unit_amount, Decimal(per))
    low, high = sorted([quantity, more])

    minor = line_amount_minor(rate(price, low), "INR")

    assert abs(minor - Fraction(low) * Fraction(unit_amount) * 100 / per) <= Fraction(1, 2)
    assert minor <= line_amount_minor(rate(price, high), "INR")


@given(PRICES)
def test_a_stored_price_is_read_back_equal(price: Price) -> None:
    assert parse_price(*price_definition(price)) == price


def test_a_price_is_quoted_for_one_unit_unless_it_says_otherwise() -> None:
    assert parse_price("per_unit", {"unit_amount": "2.50"}) == PerUnit(Decimal("2.50"), Decimal(1))


@pytest.mark.parametrize(
    ("model", "definition", "reason"),
    [
        ("per_unit", {}, "lacks unit_amount"),
        ("per_unit", {"unit_amount": "1", "pre": "3"}, "unknown parameters: pre"),
        ("per_unit", {"unit_amount": 0.1}, "must be decimal text"),
        ("per_unit", {"unit_amount": "1,000"}, "write a decimal"),
        ("per_unit", {"unit_amount": "-1"}, "zero or more"),
        ("per_unit", {"unit_amount": "NaN"}, "zero or more"),
        ("per_unit", {"unit_amount": "1", "per": "0"}, "above zero"),
        ("per_unit", {"unit_amount": "0.0000000000001"}, "12 decimals"),
        ("flat", {"unit_amount": "1e27"}, "26 digits"),
        ("flat", {"unit_amount": "1", "per": "2"}, "unknown parameters: per"),
        ("tiered", {"unit_amount": "1"}, "not a price model"),
    ],
)
def test_a_price_that_cannot_be_is_rejected(model: str, definition: dict[str, object], reason: str) -> None:
    with pytest.raises(Rejected, match=reason) as rejected:
        parse_price(model, definition)
    assert rejected.value.code == "invalid_price"
