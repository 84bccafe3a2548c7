"""Whose money it is."""

from __future__ import annotations

from dataclasses import replace

from services.payments.match import Mismatch, OwnLink, StoredPayment, judge

LINK = OwnLink("kh-1", "invoice-1", "acme", 118_000, "INR", link_id="plink_1", order_id="order_1")
PAYMENT = StoredPayment("pay_1", 118_000, "INR", "order_1", "plink_1", 0, posted=False)


def case(payment: StoredPayment, *links: OwnLink) -> str:
    verdict = judge(payment, links)
    assert isinstance(verdict, Mismatch)
    return verdict.case_class


def test_the_order_that_we_know_decides() -> None:
    assert judge(replace(PAYMENT, link_id=None), [LINK]) == LINK


def test_a_payment_of_another_order_that_calls_itself_our_links_is_nobodys() -> None:
    """The description, where its link id comes from, is the payer's to write."""
    unopened = replace(LINK, order_id=None)
    assert case(replace(PAYMENT, order_id="order_2"), unopened) == "orphan"
    assert case(replace(PAYMENT, order_id="order_2"), LINK) == "orphan"
    assert case(replace(PAYMENT, order_id=None), LINK) == "orphan"


def test_the_id_of_another_link_takes_nothing_from_the_order() -> None:
    other = replace(LINK, reference_id="kh-2", link_id="plink_2", order_id=None)
    assert judge(replace(PAYMENT, link_id="plink_2"), [LINK, other]) == LINK


def test_two_absent_ids_never_meet() -> None:
    nameless = replace(LINK, link_id=None, order_id=None)
    assert case(replace(PAYMENT, order_id=None, link_id=None), nameless) == "orphan"


def test_the_currency_is_compared_before_the_amount() -> None:
    assert case(replace(PAYMENT, currency="USD", amount_minor=1), LINK) == "currency_mismatch"
    assert case(replace(PAYMENT, amount_minor=117_999), LINK) == "amount_mismatch"
    assert case(replace(PAYMENT, amount_minor=118_001), LINK) == "amount_mismatch"
