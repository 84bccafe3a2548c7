"""Entities and their changes, without I/O."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.payments.sandbox import ids, objects
from services.payments.sandbox.objects import Entity

NOW = 1_764_000_000


def an_order(amount: int = 10_000, **more: object) -> Entity:
    fields: Entity = {"amount": amount, "currency": "INR", "receipt": None, "notes": {}, "capture": True, "now": NOW}
    return objects.order("order_" + "A" * 14, **(fields | more))


def a_link(**fields: object) -> Entity:
    return objects.link(
        "plink_" + "B" * 14, fields={"amount": 10_000, "currency": "INR"} | fields, short_url="", now=NOW
    )


def a_payment(amount: int = 10_000, link: Entity | None = None) -> Entity:
    return objects.payment(
        "pay_" + "C" * 14,
        amount=amount,
        order=an_order(),
        link=link,
        vpa="success@razorpay",
        rrn="1",
        upi_id="2",
        now=NOW,
    )


@given(st.integers(min_value=100, max_value=10**15))
def test_the_fee_is_two_percent_and_its_tax_eighteen_percent_of_that(amount: int) -> None:
    fee, tax = objects.fee_of(amount)
    net = fee - tax
    assert abs(net - Fraction(amount, 50)) <= Fraction(1, 2)
    assert abs(tax - Fraction(net * 18, 100)) <= Fraction(1, 2)


def test_half_a_paisa_is_rounded_up() -> None:
    assert objects.fee_of(125) == (4, 1)  # 2.5 -> 3 paise, 18 % of it 0.54 -> 1


def test_an_order_paid_in_part_is_attempted_and_never_overpaid() -> None:
    order = objects.order_credited(an_order(), 4_000)
    assert (order["status"], order["amount_paid"], order["amount_due"]) == ("attempted", 4_000, 6_000)
    assert objects.order_credited(order, 6_000)["status"] == "paid"
    with pytest.raises(AssertionError):
        objects.order_credited(order, 6_001)


def test_an_attempt_on_a_paid_order_leaves_it_paid() -> None:
    paid = objects.order_credited(an_order(), 10_000)
    assert objects.order_attempted(paid)["status"] == "paid"


def test_a_change_makes_a_new_entity_and_leaves_the_old_one() -> None:
    link = a_link()
    opened = objects.link_opened(link, "order_" + "A" * 14, NOW)
    objects.link_credited(opened, a_payment(), NOW + 5)
    assert "order_id" not in link
    assert (opened["status"], opened["payments"]) == ("created", [])


def test_notes_are_an_empty_list_on_payments_and_null_on_links() -> None:
    assert (a_link()["notes"], a_payment(link=a_link())["notes"], an_order()["notes"]) == (None, [], [])


def test_partial_refunds_leave_a_payment_captured_and_the_last_one_refunds_it() -> None:
    payment = objects.payment_captured(a_payment())
    part = objects.payment_refunded(payment, 1)
    assert (part["status"], part["refund_status"]) == ("captured", "partial")
    whole = objects.payment_refunded(part, 9_999)
    assert (whole["status"], whole["refund_status"], whole["captured"]) == ("refunded", "full", True)
    with pytest.raises(AssertionError):
        objects.payment_refunded(whole, 1)


def test_the_sandboxs_own_notes_on_an_entity_are_not_shown() -> None:
    assert {key for key in objects.public(an_order(link_id="plink_" + "B" * 14)) if key.startswith("_")} == set()


def test_only_an_open_link_has_a_time_to_expire() -> None:
    assert objects.link_due_at(a_link()) == NOW + objects.LINK_LIFE_S
    assert objects.link_due_at(a_link(expire_by=NOW + 900)) == NOW + 900
    assert objects.link_due_at(objects.link_closed(a_link(), "cancelled", NOW)) is None


def test_ids_are_a_prefix_and_fourteen_base62_characters() -> None:
    assert ids.is_valid("pay", ids.new("pay"))
    for wrong in ("pay_short", "order_" + "A" * 14, "pay_" + "A" * 13 + "-", "pay_" + "A" * 14 + "\n"):
        assert not ids.is_valid("pay", wrong)
