"""How an invoice stands follows from what was posted on its receivable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.ledger.posting import Kind, Standing, standing

OWED = (Kind.INVOICE_FINALIZED, 1000)


@pytest.mark.parametrize(
    ("postings", "expected"),
    [
        ([OWED], Standing.OPEN),
        ([OWED, (Kind.PAYMENT_CAPTURED, -400)], Standing.PART_PAID),
        ([OWED, (Kind.PAYMENT_CAPTURED, -400), (Kind.PAYMENT_CAPTURED, -600)], Standing.PAID),
        ([OWED, (Kind.CREDIT_APPLIED, -1000)], Standing.PAID),
        ([OWED, (Kind.PAYMENT_CAPTURED, -900), (Kind.TDS_WITHHELD, -100)], Standing.PAID),
        ([OWED, (Kind.CREDIT_NOTE, -300)], Standing.OPEN),
        ([OWED, (Kind.CREDIT_NOTE, -1000)], Standing.CREDITED),
        ([OWED, (Kind.CREDIT_NOTE, -300), (Kind.PAYMENT_CAPTURED, -700)], Standing.PAID),
        ([OWED, (Kind.WRITTEN_OFF, -1000)], Standing.WRITTEN_OFF),
        ([OWED, (Kind.PAYMENT_CAPTURED, -400), (Kind.WRITTEN_OFF, -600)], Standing.WRITTEN_OFF),
        ([OWED, (Kind.CREDIT_NOTE, -400), (Kind.WRITTEN_OFF, -600)], Standing.WRITTEN_OFF),
        ([OWED, (Kind.INVOICE_CANCELLED, -1000)], Standing.CANCELLED),
        ([OWED, (Kind.PAYMENT_CAPTURED, -1000), (Kind.CHARGEBACK, 1000)], Standing.OPEN),
        ([OWED, (Kind.PAYMENT_CAPTURED, -1000), (Kind.CHARGEBACK, 400)], Standing.PART_PAID),
        (
            [OWED, (Kind.PAYMENT_CAPTURED, -1000), (Kind.CHARGEBACK, 1000), (Kind.CHARGEBACK_REVERSED, -1000)],
            Standing.PAID,
        ),
        ([(Kind.INVOICE_FINALIZED, 0)], Standing.PAID),
        ([(Kind.INVOICE_FINALIZED, 0), (Kind.INVOICE_CANCELLED, 0)], Standing.CANCELLED),
        ([], Standing.PAID),
    ],
)
def test_an_invoice_stands_as_its_postings_say(postings: list[tuple[Kind, int]], expected: Standing) -> None:
    assert standing(postings) is expected


def test_kinds_are_read_as_they_are_stored() -> None:
    assert standing([("invoice_finalized", 10), ("payment_captured", -10)]) == "paid"


def test_more_taken_off_than_owed_is_refused() -> None:
    with pytest.raises(ValueError, match="1 more was taken off"):
        standing([OWED, (Kind.PAYMENT_CAPTURED, -1001)])


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="gift"):
        standing([OWED, ("gift", -10)])


@given(st.integers(1, 10**9), st.lists(st.integers(1, 10**9), max_size=5), st.data())
def test_the_order_in_which_postings_arrive_does_not_matter(
    owed: int, payments: list[int], data: st.DataObject
) -> None:
    left, postings = owed, [(Kind.INVOICE_FINALIZED, owed)]
    for payment in payments:
        taken = min(payment, left)
        left -= taken
        postings.append((Kind.PAYMENT_CAPTURED, -taken))

    expected = Standing.PAID if left == 0 else Standing.PART_PAID if left < owed else Standing.OPEN
    assert standing(data.draw(st.permutations(postings))) == expected
