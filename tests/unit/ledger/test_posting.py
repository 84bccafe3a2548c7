"""What each fact posts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.ledger.accounts import Account
from shared.ledger.posting import Entry, Kind, Posting, cancel_posting, capture_posting, finalize_posting

INVOICE = "0199c2a4-0000-7000-8000-000000000001"
AMOUNT = st.integers(0, 10**15)


def entry(account: Account, amount_minor: int, currency: str = "INR", organisation_id: str = "acme") -> Entry:
    return Entry(account, amount_minor, currency, INVOICE, organisation_id)


def posting(*entries: Entry) -> Posting:
    return Posting(Kind.PAYMENT_CAPTURED, "pay_1", "acme", INVOICE, entries)


def finalized(taxable_minor: int, **heads: int) -> Posting:
    return finalize_posting(
        invoice_id=INVOICE,
        organisation_id="acme",
        currency="INR",
        taxable_minor=taxable_minor,
        tax_minor_by_head=heads,
    )


def captured(amount_minor: int, left_minor: int, invoice_id: str | None = INVOICE) -> Posting:
    return capture_posting(
        payment_id="pay_1",
        amount_minor=amount_minor,
        currency="INR",
        organisation_id="acme",
        invoice_id=invoice_id,
        receivable_left_minor=left_minor,
    )


def test_a_posting_that_does_not_sum_to_zero_names_the_difference() -> None:
    with pytest.raises(ValueError, match="pay_1 does not sum to zero: 5 INR"):
        posting(entry(Account.BANK, 105), entry(Account.GATEWAY_CLEARING, -100))


def test_currencies_do_not_make_up_for_each_other() -> None:
    with pytest.raises(ValueError, match="does not sum to zero"):
        posting(entry(Account.BANK, 100), entry(Account.GATEWAY_CLEARING, -100, "USD"))


def test_an_entry_of_another_organisation_is_refused() -> None:
    with pytest.raises(ValueError, match="has an entry of globex"):
        posting(entry(Account.BANK, 100), entry(Account.GATEWAY_CLEARING, -100, organisation_id="globex"))


def test_an_entry_that_moves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="moves nothing"):
        entry(Account.BANK, 0)


def test_a_receivable_names_its_invoice() -> None:
    with pytest.raises(ValueError, match="names the invoice"):
        Entry(Account.RECEIVABLE, 100, "INR", None, "acme")


def test_a_finalized_invoice_is_owed_as_revenue_and_tax() -> None:
    made = finalized(476_089, IGST=85_696)

    assert (made.kind, made.object_id, made.invoice_id) == (Kind.INVOICE_FINALIZED, INVOICE, INVOICE)
    assert [(e.account, e.amount_minor) for e in made.entries] == [
        (Account.RECEIVABLE, 561_785),
        (Account.REVENUE, -476_089),
        (Account.GST_IGST, -85_696),
    ]


def test_an_invoice_over_nothing_posts_no_entries() -> None:
    assert finalized(0, IGST=0).entries == ()


def test_what_is_no_invoice_is_not_posted_as_one() -> None:
    with pytest.raises(ValueError, match="credit note"):
        finalized(-1)
    with pytest.raises(ValueError, match="credit note"):
        finalized(100, IGST=-18)
    with pytest.raises(ValueError, match="unknown heads: VAT"):
        finalized(100, VAT=20)


@given(AMOUNT, st.dictionaries(st.sampled_from(["CGST", "SGST", "UTGST", "IGST"]), AMOUNT))
def test_finalizing_sums_to_zero_and_cancelling_undoes_it(taxable: int, heads: dict[str, int]) -> None:
    made = finalized(taxable, **heads)
    undone = cancel_posting(made)

    assert sum(e.amount_minor for e in made.entries) == 0
    assert made.net(Account.RECEIVABLE) == taxable + sum(heads.values())
    assert all(made.net(account) + undone.net(account) == 0 for account in Account)


def test_only_a_finalization_can_be_cancelled() -> None:
    with pytest.raises(ValueError, match="no finalization"):
        cancel_posting(captured(100, 100))


def test_a_capture_pays_the_invoice() -> None:
    assert [(e.account, e.amount_minor, e.invoice_id) for e in captured(561_785, 561_785).entries] == [
        (Account.GATEWAY_CLEARING, 561_785, INVOICE),
        (Account.RECEIVABLE, -561_785, INVOICE),
    ]


def test_what_is_paid_in_excess_is_the_customers_credit() -> None:
    made = captured(600, 500)
    assert (made.net(Account.RECEIVABLE), made.net(Account.CUSTOMER_CREDIT)) == (-500, -100)


def test_a_second_capture_of_a_paid_invoice_is_all_credit() -> None:
    made = captured(600, 0)
    assert (made.net(Account.RECEIVABLE), made.net(Account.CUSTOMER_CREDIT)) == (0, -600)


def test_a_capture_without_an_invoice_is_all_credit() -> None:
    assert captured(600, 0, invoice_id=None).net(Account.CUSTOMER_CREDIT) == -600
    with pytest.raises(ValueError, match="left to pay of invoice None"):
        captured(600, 500, invoice_id=None)


@pytest.mark.parametrize(("amount", "left"), [(0, 100), (-1, 100), (100, -1)])
def test_a_capture_that_cannot_be_is_refused(amount: int, left: int) -> None:
    with pytest.raises(ValueError, match="captured|left to pay"):
        captured(amount, left)


@given(st.integers(1, 10**15), AMOUNT)
def test_a_capture_sums_to_zero_and_never_overdraws_the_receivable(amount: int, left: int) -> None:
    made = captured(amount, left)

    assert sum(e.amount_minor for e in made.entries) == 0
    assert made.net(Account.GATEWAY_CLEARING) == amount
    assert left + made.net(Account.RECEIVABLE) >= 0
    assert made.net(Account.CUSTOMER_CREDIT) == -max(amount - left, 0)
