"""From usage to the amount owed, with figures worked by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.invoicer.pricing import PerUnit, line_amount_minor, rate
from services.invoicer.tax.gst import Customer, Head, Seller, tax
from services.invoicer.tax.gstin import parse_gstin
from services.invoicer.tax.words import rupees_in_words
from services.invoicer.totals import Totals, total
from shared.domain.money import format_money

SELLER = Seller(parse_gstin("29AABCU9603R1ZJ"))  # Karnataka
IN_MAHARASHTRA = Customer(parse_gstin("27AAPFU0939F1ZV"))


def test_a_month_of_tokens_billed_to_another_state() -> None:
    # 18,059,974 x 250 / 1,000,000 = 4514.9935; 245,896 x 1000 / 1,000,000 = 245.896
    context = line_amount_minor(rate(PerUnit(Decimal("250.00"), Decimal(1_000_000)), Decimal(18_059_974)), "INR")
    generated = line_amount_minor(rate(PerUnit(Decimal("1000.00"), Decimal(1_000_000)), Decimal(245_896)), "INR")
    assert (context, generated) == (451_499, 24_590)

    # 4760.89 x 18 % = 856.9602
    gst = tax(SELLER, IN_MAHARASHTRA, {Decimal(18): context + generated})
    totals = total([context, generated], 0, gst)

    assert gst.by_head() == {Head.IGST: 85_696}
    assert totals == Totals(subtotal_minor=476_089, discount_minor=0, tax_minor=85_696, total_minor=561_785)
    assert format_money(totals.total_minor, "INR") == "₹5,617.85"
    assert rupees_in_words(totals.total_minor) == (
        "Rupees Five Thousand Six Hundred Seventeen and Eighty-Five Paise Only"
    )


@given(st.lists(st.integers(0, 10**12), max_size=8), st.data())
def test_total_is_subtotal_less_discount_plus_tax(lines: list[int], data: st.DataObject) -> None:
    discount = data.draw(st.integers(0, sum(lines)))
    gst = tax(SELLER, IN_MAHARASHTRA, {Decimal(18): sum(lines) - discount})

    totals = total(lines, discount, gst)

    assert totals.subtotal_minor == sum(lines)
    assert totals.total_minor == totals.subtotal_minor - totals.discount_minor + gst.total_minor
    assert totals.taxable_minor == gst.taxable_minor


def test_no_lines_owe_nothing() -> None:
    assert total([]) == Totals(0, 0, 0, 0)


def test_a_line_that_fell_out_of_its_rate_group_is_noticed() -> None:
    gst = tax(SELLER, IN_MAHARASHTRA, {Decimal(18): 10_000})
    with pytest.raises(ValueError, match="computed on 10000, but 10001 is taxable"):
        total([10_000, 1], 0, gst)


def test_a_discount_above_the_subtotal_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        total([100], 101)


def test_totals_that_do_not_add_up_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="subtotal - discount \\+ tax is 118"):
        Totals(subtotal_minor=100, discount_minor=0, tax_minor=18, total_minor=117)
