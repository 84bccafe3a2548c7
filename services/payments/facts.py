"""What a webhook says, read tolerantly into frozen facts. Pure.

Razorpay's envelope drifts from event to event (keys sorted or not, `[]` for an empty object, an order without its
prefix, `captured: true` on failed payments): what is read here is the least that money needs, and of a payment its
`status` alone decides. `notes` are never read: whoever pays could write them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import orjson

from shared.domain.errors import Rejected

RANKS: Mapping[str, int] = MappingProxyType({"created": 0, "failed": 1, "authorized": 2, "captured": 3, "refunded": 4})
"""Status of a payment -> rank. A payment only moves forward; `failed` is not final (Razorpay: late authorisation)."""
CAPTURED_RANK = RANKS["captured"]

LINK_RANKS: Mapping[str, int] = MappingProxyType(
    {"created": 0, "partially_paid": 1, "expired": 2, "cancelled": 2, "paid": 3}
)

# These are nothing without the payment they tell about.
PAYMENT_EVENTS = frozenset(
    {
        "payment.authorized",
        "payment.captured",
        "payment.failed",
        "order.paid",
        "payment_link.paid",
        "payment_link.partially_paid",
    }
)

_ID = r"[0-9A-Za-z]{14}"
_LINK_IN_DESCRIPTION = re.compile(rf"#({_ID})")
_MOST_MINOR = 2**63 - 1  # what a bigint holds


@dataclass(frozen=True, slots=True)
class PaymentFact:
    """One payment as one event saw it. Amounts in the currency's smallest unit; `fee` includes `tax` (its GST)."""

    id: str
    status: str
    amount_minor: int
    currency: str
    order_id: str | None = None
    link_id: str | None = None
    method: str | None = None
    fee_minor: int | None = None
    tax_minor: int | None = None
    refunded_minor: int = 0

    @property
    def rank(self) -> int:
        return RANKS[self.status]


@dataclass(frozen=True, slots=True)
class LinkFact:
    """One payment link as one event saw it; it has an order once a customer has opened it."""

    link_id: str
    status: str
    amount_minor: int
    amount_paid_minor: int
    reference_id: str | None = None
    order_id: str | None = None

    @property
    def rank(self) -> int:
        return LINK_RANKS[self.status]


@dataclass(frozen=True, slots=True)
class Webhook:
    """The envelope and what of it concerns money; an event of another kind has no facts."""

    event: str
    account_id: str | None
    payment: PaymentFact | None
    link: LinkFact | None

    @property
    def object_ids(self) -> tuple[str, ...]:
        """Ids of Razorpay's objects that it names: the order, the link, the payment."""
        order_id = (self.payment and self.payment.order_id) or (self.link and self.link.order_id)
        link_id = (self.link and self.link.link_id) or (self.payment and self.payment.link_id)
        return tuple(found for found in (order_id, link_id, self.payment and self.payment.id) if found)


def read_webhook(body: bytes) -> Webhook:
    """Raises Rejected (`unreadable`) for what is no event, or an event whose money cannot be read."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _unreadable(f"the body is not JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("event"), str):
        raise _unreadable("the body is not an event")
    event, account_id = document["event"], document.get("account_id")
    payment, link, order = (_entity(document, name) for name in ("payment", "payment_link", "order"))
    order_id = _order_id(order)
    link_fact = _link(link, order_id, payment) if link else None
    payment_fact = _payment(payment, order_id, link_fact) if payment else None
    if payment_fact is None and event in PAYMENT_EVENTS:
        raise _unreadable(f"{event} comes without its payment")
    return Webhook(event, account_id if isinstance(account_id, str) else None, payment_fact, link_fact)


def routing_key(body: bytes) -> str | None:
    """The order, link or payment that a webhook is about, so that one partition has all of its events."""
    try:
        found = read_webhook(body).object_ids
    except Rejected:
        return None
    return found[0] if found else None


def _unreadable(text: str) -> Rejected:
    return Rejected("unreadable", text)


def _entity(document: dict[str, Any], name: str) -> dict[str, Any] | None:
    """`payload.<name>.entity`, or `payload.<name>` itself where the wrapping is missing."""
    payload = document.get("payload")
    wrapped = payload.get(name) if isinstance(payload, dict) else None
    if not isinstance(wrapped, dict):
        return None
    entity = wrapped.get("entity", wrapped)
    found = entity if isinstance(entity, dict) else wrapped
    return found if "id" in found else None


def _payment(entity: dict[str, Any], order_id: str | None, link: LinkFact | None) -> PaymentFact:
    status, currency = entity.get("status"), entity.get("currency")
    if not isinstance(status, str) or status not in RANKS:
        raise _unreadable(f"a payment has no status that is known: {str(status)[:40]!r}")
    if not isinstance(currency, str) or not re.fullmatch(r"[A-Z]{3}", currency):
        raise _unreadable("a payment has no currency")
    return PaymentFact(
        id=_id(entity.get("id"), "pay"),
        status=status,
        amount_minor=_minor(entity.get("amount"), "amount"),
        currency=currency,
        order_id=_order_id({"id": entity.get("order_id")}) or order_id or (link.order_id if link else None),
        link_id=link.link_id if link else _described_link(entity.get("description")),
        method=_word(entity.get("method")),
        fee_minor=_minor_or_none(entity.get("fee")),
        tax_minor=_minor_or_none(entity.get("tax")),
        refunded_minor=_minor(entity.get("amount_refunded") or 0, "amount_refunded"),
    )


def _link(entity: dict[str, Any], order_id: str | None, payment: dict[str, Any] | None) -> LinkFact:
    status, reference_id = entity.get("status"), entity.get("reference_id")
    if not isinstance(status, str) or status not in LINK_RANKS:
        raise _unreadable(f"a payment link has no status that is known: {str(status)[:40]!r}")
    return LinkFact(
        link_id=_id(entity.get("id"), "plink"),
        status=status,
        amount_minor=_minor(entity.get("amount"), "amount"),
        amount_paid_minor=_minor(entity.get("amount_paid") or 0, "amount_paid"),
        reference_id=_word(reference_id),
        order_id=_order_id({"id": entity.get("order_id")})
        or order_id
        or _order_id({"id": (payment or {}).get("order_id")}),
    )


def _id(value: object, prefix: str) -> str:
    if isinstance(value, str) and re.fullmatch(rf"{prefix}_{_ID}", value):
        return value
    raise _unreadable(f"{str(value)[:40]!r} is not an id {prefix}_...")


def _order_id(order: dict[str, Any] | None) -> str | None:
    """The order's id; inside payment_link.paid it may come without its prefix."""
    value = (order or {}).get("id")
    match = re.fullmatch(rf"(?:order_)?({_ID})", value) if isinstance(value, str) else None
    return f"order_{match[1]}" if match else None


def _described_link(description: object) -> str | None:
    """A payment of a link is described as "#" and the link's id without its prefix (Razorpay: payment links).

    A hint for people only: another page of the same account may describe its payments like that.
    """
    match = _LINK_IN_DESCRIPTION.fullmatch(description) if isinstance(description, str) else None
    return f"plink_{match[1]}" if match else None


def _minor(value: object, name: str) -> int:
    """A whole number of minor units; some events carry it as text."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_MINOR:
        return value
    raise _unreadable(f"{name} is not a whole number of minor units")


def _minor_or_none(value: object) -> int | None:
    """A fee is for information until the settlement tells it: one that cannot be read must not hold up a credit."""
    try:
        return _minor(value, "fee")
    except Rejected:
        return None


def _word(value: object) -> str | None:
    """A short printable text, or nothing: Postgres takes no NUL, and nobody needs control characters."""
    return value[:60] if isinstance(value, str) and value and value.isprintable() else None
