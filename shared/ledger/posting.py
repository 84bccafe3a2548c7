"""What each fact posts. Pure: the store inserts what is missing, unique on (kind, object id).

fact                  debit                       credit
invoice finalized     receivable                  revenue, GST per head
invoice cancelled     revenue, GST per head       receivable
payment captured      gateway clearing            receivable up to what is left, the rest customer credit
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from shared.ledger.accounts import GST_ACCOUNTS, Account


class Kind(StrEnum):
    """Which fact a posting states; stored in `ledger.posting.kind`. Only the first three have functions so far."""

    INVOICE_FINALIZED = "invoice_finalized"
    INVOICE_CANCELLED = "invoice_cancelled"
    PAYMENT_CAPTURED = "payment_captured"
    CREDIT_APPLIED = "credit_applied"
    CREDIT_NOTE = "credit_note"
    TDS_WITHHELD = "tds_withheld"
    WRITTEN_OFF = "written_off"
    CHARGEBACK = "chargeback"
    CHARGEBACK_REVERSED = "chargeback_reversed"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a posting: `amount_minor` is positive for a debit, negative for a credit, never zero.

    Raises ValueError for zero, and for a receivable that names no invoice: balances are kept per invoice.
    """

    account: Account
    amount_minor: int
    currency: str
    invoice_id: str | None
    organisation_id: str

    def __post_init__(self) -> None:
        if self.amount_minor == 0:
            raise ValueError(f"an entry on {self.account} moves nothing; leave it out")
        if self.account is Account.RECEIVABLE and self.invoice_id is None:
            raise ValueError("an entry on receivable names the invoice that is owed")


@dataclass(frozen=True, slots=True)
class Posting:
    """The entries of one fact. Raises ValueError, naming the difference, unless every currency sums to zero.

    No entries at all is a posting too: an invoice over nothing was finalized.
    """

    kind: Kind
    object_id: str
    organisation_id: str
    invoice_id: str | None
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        sums: dict[str, int] = {}
        for entry in self.entries:
            sums[entry.currency] = sums.get(entry.currency, 0) + entry.amount_minor
            if entry.organisation_id != self.organisation_id:
                raise ValueError(f"{self._name} of {self.organisation_id} has an entry of {entry.organisation_id}")
        for currency, difference in sums.items():
            if difference != 0:
                raise ValueError(f"{self._name} does not sum to zero: {difference} {currency} (minor units) too much")

    @property
    def _name(self) -> str:
        return f"posting {self.kind} {self.object_id}"

    def net(self, account: Account) -> int:
        """Sum of its entries on `account`, minor units, debit positive; for postings in one currency."""
        return sum(entry.amount_minor for entry in self.entries if entry.account is account)


def finalize_posting(
    *,
    invoice_id: str,
    organisation_id: str,
    currency: str,
    taxable_minor: int,
    tax_minor_by_head: Mapping[str, int],
) -> Posting:
    """An invoice is owed: Dr receivable total, Cr revenue taxable value, Cr GST per head ("CGST", ...).

    Heads and amounts of zero leave no entry; an invoice over nothing has none at all. Raises ValueError for a
    negative amount or an unknown head.
    """
    if taxable_minor < 0 or any(amount < 0 for amount in tax_minor_by_head.values()):
        raise ValueError(f"invoice {invoice_id} has a negative amount; that is a credit note")
    if unknown := tax_minor_by_head.keys() - GST_ACCOUNTS.keys():
        raise ValueError(f"invoice {invoice_id} has tax under unknown heads: {', '.join(sorted(unknown))}")

    amounts = [
        (Account.RECEIVABLE, taxable_minor + sum(tax_minor_by_head.values())),
        (Account.REVENUE, -taxable_minor),
        *((account, -tax_minor_by_head.get(head, 0)) for head, account in GST_ACCOUNTS.items()),
    ]
    return Posting(
        Kind.INVOICE_FINALIZED,
        invoice_id,
        organisation_id,
        invoice_id,
        tuple(Entry(account, amount, currency, invoice_id, organisation_id) for account, amount in amounts if amount),
    )


def cancel_posting(finalized: Posting) -> Posting:
    """The exact reverse of the finalization of an invoice that is still wholly owed.

    Raises ValueError for another kind of posting; that nothing was paid is the caller's to check, under the
    invoice's lock.
    """
    if finalized.kind is not Kind.INVOICE_FINALIZED:
        raise ValueError(f"{finalized._name} is no finalization")
    return Posting(
        Kind.INVOICE_CANCELLED,
        finalized.object_id,
        finalized.organisation_id,
        finalized.invoice_id,
        tuple(
            Entry(entry.account, -entry.amount_minor, entry.currency, entry.invoice_id, entry.organisation_id)
            for entry in finalized.entries
        ),
    )


def capture_posting(
    *,
    payment_id: str,
    amount_minor: int,
    currency: str,
    organisation_id: str,
    invoice_id: str | None,
    receivable_left_minor: int,
) -> Posting:
    """A payment was captured: Dr gateway clearing, Cr receivable up to what is left, Cr customer credit the rest.

    `receivable_left_minor` is the invoice's balance in `currency`, read under the invoice's lock; what is excess
    is decided here, once, and never moved. Without an invoice all of it is customer credit.
    Raises ValueError for an amount that is not above zero, and for a balance below zero or without an invoice.
    """
    if amount_minor <= 0:
        raise ValueError(f"payment {payment_id} captured {amount_minor}; a capture is above zero")
    if receivable_left_minor < 0 or (invoice_id is None and receivable_left_minor != 0):
        raise ValueError(f"{receivable_left_minor} cannot be left to pay of invoice {invoice_id}")

    to_receivable = min(amount_minor, receivable_left_minor)
    amounts: list[tuple[Account, int, str | None]] = [
        (Account.GATEWAY_CLEARING, amount_minor, invoice_id),
        (Account.RECEIVABLE, -to_receivable, invoice_id),
        (Account.CUSTOMER_CREDIT, to_receivable - amount_minor, None),
    ]
    return Posting(
        Kind.PAYMENT_CAPTURED,
        payment_id,
        organisation_id,
        invoice_id,
        tuple(Entry(account, amount, currency, of, organisation_id) for account, amount, of in amounts if amount),
    )


class Standing(StrEnum):
    """How a finalized invoice stands. Read by `standing`; nobody sets it."""

    OPEN = "open"
    PART_PAID = "part_paid"
    PAID = "paid"
    CREDITED = "credited"
    WRITTEN_OFF = "written_off"
    CANCELLED = "cancelled"


_PAYING = frozenset(
    {Kind.PAYMENT_CAPTURED, Kind.CREDIT_APPLIED, Kind.TDS_WITHHELD, Kind.CHARGEBACK, Kind.CHARGEBACK_REVERSED}
)


def standing(receivable: Iterable[tuple[str, int]]) -> Standing:
    """Standing of a finalized invoice from the (kind, amount) of every posting on its receivable.

    The amount is the posting's net on the receivable, debit positive. "Paid" counts captures, customer credit,
    tax withheld, less what chargebacks took back. The first row that fits:

        left to pay   composition              standing
        -----------   ----------------------   -----------
        > 0           something was paid       part_paid
        > 0           nothing was paid         open         (a credit note alone makes it smaller)
        0             cancelled                cancelled
        0             some was written off     written_off  (whatever was paid before)
        0             something was paid       paid         (a credit note for the rest included)
        0             some was credited        credited
        0             none of these            paid         (the invoice was over nothing)

    Ask only for finalized invoices: one over nothing has no entries, and looks like a draft from here.
    Raises ValueError for an unknown kind, and when less than nothing is left: the ledger forbids it.
    """
    sums: dict[Kind, int] = {}
    cancelled = False
    for name, amount_minor in receivable:
        kind = Kind(name)
        sums[kind] = sums.get(kind, 0) + amount_minor
        cancelled = cancelled or kind is Kind.INVOICE_CANCELLED

    left = sum(sums.values())
    paid = -sum(amount for kind, amount in sums.items() if kind in _PAYING)
    if left < 0:
        raise ValueError(f"{-left} more was taken off the receivable than was owed")
    if left > 0:
        return Standing.PART_PAID if paid > 0 else Standing.OPEN
    if cancelled:
        return Standing.CANCELLED
    if sums.get(Kind.WRITTEN_OFF, 0) < 0:
        return Standing.WRITTEN_OFF
    if paid > 0:
        return Standing.PAID
    return Standing.CREDITED if sums.get(Kind.CREDIT_NOTE, 0) < 0 else Standing.PAID
