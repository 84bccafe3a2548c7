"""The chart of accounts. A member's value is the code stored in `ledger.entry.account` and never changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Side(StrEnum):
    """On which side an account grows; entries hold debits as positive and credits as negative amounts."""

    DEBIT = "debit"
    CREDIT = "credit"


class Account(StrEnum):
    RECEIVABLE = "receivable"
    TDS_RECEIVABLE = "tds_receivable"
    GATEWAY_CLEARING = "gateway_clearing"
    BANK = "bank"
    GST_INPUT = "gst_input"
    REFUNDS_IN_SUSPENSE = "refunds_in_suspense"

    CUSTOMER_CREDIT = "customer_credit"
    UNMATCHED_RECEIPTS = "unmatched_receipts"
    GST_CGST = "gst_cgst"
    GST_SGST = "gst_sgst"
    GST_UTGST = "gst_utgst"
    GST_IGST = "gst_igst"

    REVENUE = "revenue"
    FEES = "fees"
    BAD_DEBT = "bad_debt"
    DISPUTE_LOSS = "dispute_loss"
    ROUND_OFF = "round_off"
    CURRENCY_EXCHANGE = "currency_exchange"

    @property
    def side(self) -> Side:
        return CHART[self].side

    @property
    def meaning(self) -> str:
        return CHART[self].meaning


@dataclass(frozen=True, slots=True)
class AccountInfo:
    side: Side
    meaning: str


def _debit(meaning: str) -> AccountInfo:
    return AccountInfo(Side.DEBIT, meaning)


def _credit(meaning: str) -> AccountInfo:
    return AccountInfo(Side.CREDIT, meaning)


CHART: Mapping[Account, AccountInfo] = MappingProxyType(
    {
        Account.RECEIVABLE: _debit("What customers owe on finalized invoices; never below zero for one invoice"),
        Account.TDS_RECEIVABLE: _debit("Income tax a customer withheld and owes us a certificate for"),
        Account.GATEWAY_CLEARING: _debit("Captured by the payment provider, not yet settled to the bank"),
        Account.BANK: _debit("Settled to our bank account"),
        Account.GST_INPUT: _debit("GST the provider charged on its fees, which we may set off"),
        Account.REFUNDS_IN_SUSPENSE: _debit("Refunds that no credit note explains yet; each has an open case"),
        Account.CUSTOMER_CREDIT: _credit("Paid in excess or credited: owed to the customer or to its next invoice"),
        Account.UNMATCHED_RECEIPTS: _credit("Captured, but whose it is is not known yet; each has an open case"),
        Account.GST_CGST: _credit("Central GST collected and owed to the government"),
        Account.GST_SGST: _credit("State GST collected and owed to the government"),
        Account.GST_UTGST: _credit("Union territory GST collected and owed to the government"),
        Account.GST_IGST: _credit("Integrated GST collected and owed to the government"),
        Account.REVENUE: _credit("Taxable value of what was invoiced, less credit notes"),
        Account.FEES: _debit("What the payment provider keeps, without GST"),
        Account.BAD_DEBT: _debit("Receivables given up"),
        Account.DISPUTE_LOSS: _debit("Chargebacks lost for good"),
        Account.ROUND_OFF: _debit("Invoices rounded to the rupee: the difference, either way"),
        Account.CURRENCY_EXCHANGE: _debit("Both legs of an exchange, each in its own currency, so each stays at zero"),
    }
)

GST_ACCOUNTS: Mapping[str, Account] = MappingProxyType(
    {
        "CGST": Account.GST_CGST,
        "SGST": Account.GST_SGST,
        "UTGST": Account.GST_UTGST,
        "IGST": Account.GST_IGST,
    }
)
"""Head of the tax, as the invoice names it -> the account that owes it to the government."""
