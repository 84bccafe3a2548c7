"""Webhook bodies as Razorpay words them, for what the sandbox never sends: wrong amounts, orders of others, drift."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.integration.payments.conftest import ACCOUNT_ID

LINK = "plink_AAAAAAAAAAAAAA"
ORDER = "order_AAAAAAAAAAAAAA"
PAYMENT = "pay_AAAAAAAAAAAAAA"


@dataclass(frozen=True)
class Paid:
    """One payment of one link, and the events that tell of it."""

    amount: int
    payment: str = PAYMENT
    order: str = ORDER
    link: str = LINK
    currency: str = "INR"

    def payment_entity(self, status: str = "captured", **other: Any) -> dict[str, Any]:
        fee = None if status in ("authorized", "failed") else self.amount // 50
        return {
            "id": self.payment,
            "entity": "payment",
            "amount": self.amount,
            "currency": self.currency,
            "status": status,
            "order_id": self.order,
            "captured": status == "captured",
            "description": "#" + self.link.removeprefix("plink_"),
            "method": "upi",
            "amount_refunded": 0,
            "notes": [],
            "fee": fee,
            "tax": None if fee is None else fee // 7,
            **other,
        }

    def event(self, name: str, status: str = "captured", **payment: Any) -> tuple[str, bytes]:
        """(event id, body) of an event that carries only the payment."""
        return envelope(name, self.payment, {"payment": self.payment_entity(status, **payment)})

    def link_paid(self) -> tuple[str, bytes]:
        """payment_link.paid: its order comes without prefix and `entity`, as Razorpay's documentation shows it."""
        link = {
            "id": self.link,
            "amount": self.amount,
            "amount_paid": self.amount,
            "currency": self.currency,
            "status": "paid",
            "order_id": self.order,
            "notes": None,
            "reference_id": "somebody-else",
        }
        order = {"id": self.order.removeprefix("order_"), "merchant_id": "KhataSandbox01", "amount": self.amount}
        entities = {"payment_link": link, "order": order, "payment": self.payment_entity()}
        return envelope("payment_link.paid", self.payment, entities)

    def all_four(self) -> list[tuple[str, bytes]]:
        """What one link payment sends within about a second."""
        order = {"id": self.order, "entity": "order", "amount": self.amount, "status": "paid"}
        paid = envelope("order.paid", self.payment, {"payment": self.payment_entity(), "order": order})
        return [self.event("payment.authorized", "authorized"), self.event("payment.captured"), paid, self.link_paid()]


def envelope(name: str, of: str, entities: dict[str, Any], account_id: str = ACCOUNT_ID) -> tuple[str, bytes]:
    document = {
        "entity": "event",
        "account_id": account_id,
        "event": name,
        "contains": list(entities),
        "payload": {kind: {"entity": entity} for kind, entity in entities.items()},
        "created_at": 1_700_000_000,
    }
    event_id = (name.replace(".", "") + of.removeprefix("pay_"))[:40]
    return event_id, json.dumps(document, separators=(",", ":")).replace("/", "\\/").encode()
