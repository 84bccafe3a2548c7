"""The chart of accounts."""

from __future__ import annotations

from services.invoicer.tax.gst import Head
from shared.ledger.accounts import CHART, GST_ACCOUNTS, Account, Side


def test_every_account_has_a_side_and_a_meaning() -> None:
    assert CHART.keys() == set(Account)
    assert all(account.meaning for account in Account)


def test_sides_are_those_of_double_entry() -> None:
    assert Account.RECEIVABLE.side is Side.DEBIT
    assert Account.REVENUE.side is Side.CREDIT
    assert Account.CUSTOMER_CREDIT.side is Side.CREDIT


def test_every_head_of_tax_has_its_account() -> None:
    assert GST_ACCOUNTS.keys() == {head.value for head in Head}
    assert all(account.side is Side.CREDIT for account in GST_ACCOUNTS.values())
