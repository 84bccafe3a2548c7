"""Whose money is it, and is it what was asked for? Pure; an answer is an own link or a mismatch, never a guess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

CaseClass = Literal[
    "orphan",
    "amount_mismatch",
    "currency_mismatch",
    "duplicate",
    "late_capture",
    "refund_missing_here",
    "wrong_account",
    "unreadable",
    "link_refused",
    "link_differs",
    "stale_link",
    "stuck",
]
"""Classes of `payments.case`: those of the reconciliation table (razorpay.md 4.2) and four about our own links."""

PARKING: tuple[CaseClass, ...] = ("orphan", "amount_mismatch", "currency_mismatch")
"""Cases of captured money that is not posted; closed by themselves once it is."""


@dataclass(frozen=True, slots=True)
class OwnLink:
    """A payment link that we asked for: what the invoice is over, and Razorpay's ids as far as they are known."""

    reference_id: str
    invoice_id: str
    organisation_id: str
    amount_minor: int
    currency: str
    link_id: str | None
    order_id: str | None


@dataclass(frozen=True, slots=True)
class StoredPayment:
    """A payment that was captured, as all events so far tell it; `posted` once the ledger has it."""

    id: str
    amount_minor: int
    currency: str
    order_id: str | None
    link_id: str | None
    refunded_minor: int
    posted: bool


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Why a captured payment is not posted, and what a person can do."""

    case_class: CaseClass
    organisation_id: str | None
    expected: dict[str, str | int]
    action: str


def judge(payment: StoredPayment, candidates: Sequence[OwnLink]) -> OwnLink | Mismatch:
    """The link that this payment pays: the one that we know to have the payment's order.

    A payment of a link always goes through the link's one order. The link id of a payment proves nothing: it may come
    from the description, which a page of the payer's can set. While the order of a link is not known its payment
    waits for `payment_link.paid`, which names both.
    """
    owners = [link for link in candidates if payment.order_id is not None and link.order_id == payment.order_id]
    if len(owners) != 1:
        return Mismatch(
            "orphan",
            None,
            {"links_that_fit": len(owners)},
            "find out at Razorpay whose payment this is, then attach it to an invoice or refund it",
        )
    (link,) = owners
    if payment.currency != link.currency:
        return Mismatch(
            "currency_mismatch",
            link.organisation_id,
            {"invoice_id": link.invoice_id, "currency": link.currency},
            "the invoice is in another currency: settle it with the customer or refund it",
        )
    if payment.amount_minor != link.amount_minor:
        return Mismatch(
            "amount_mismatch",
            link.organisation_id,
            {"invoice_id": link.invoice_id, "amount_minor": link.amount_minor},
            "the invoice is over another amount: settle it with the customer or refund it",
        )
    return link
