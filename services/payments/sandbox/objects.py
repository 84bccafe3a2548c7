"""Razorpay's entities and how they change. Pure: ids and time are arguments, every function returns a new entity.

Field names, unset values (`null` on most, `0` on links) and states are those of Razorpay's API reference.
Money is integer minor units, times are epoch seconds. Keys that begin with `_` are the sandbox's own notes on an
entity and never leave it (`public`).
"""

from __future__ import annotations

from typing import Any

Entity = dict[str, Any]

FEE_PERCENT = 2
GST_PERCENT = 18  # charged on the fee
LINK_LIFE_S = 183 * 86_400  # a link without expire_by lives six months


def public(entity: Entity) -> Entity:
    """The entity as the API and the webhooks show it."""
    return {key: value for key, value in entity.items() if not key.startswith("_")}


def half_up_percent(amount: int, percent: int) -> int:
    """`percent` of a non-negative amount, rounded half up to the minor unit."""
    return (amount * percent + 50) // 100


def fee_of(amount: int) -> tuple[int, int]:
    """Razorpay's fee on a captured amount, and the GST in it: `(fee including tax, tax)`."""
    net = half_up_percent(amount, FEE_PERCENT)
    tax = half_up_percent(net, GST_PERCENT)
    return net + tax, tax


# Orders: created -> attempted -> paid. There is no partially paid status; `amount_paid` tells.


def order(
    order_id: str,
    *,
    amount: int,
    currency: str,
    receipt: str | None,
    notes: Entity,
    capture: bool,
    now: int,
    link_id: str | None = None,
    partial: bool = False,
    first_minimum: int | None = None,
) -> Entity:
    """A new order. `capture` says whether its payments are captured by themselves."""
    made: Entity = {
        "id": order_id,
        "entity": "order",
        "amount": amount,
        "amount_paid": 0,
        "amount_due": amount,
        "currency": currency,
        "receipt": receipt,
        "offer_id": None,
        "status": "created",
        "attempts": 0,
        "notes": notes or [],
        "created_at": now,
        "_capture": capture,
        "_partial": partial,
        "_first_minimum": first_minimum,
    }
    if link_id is not None:
        made |= {"product_id": link_id.removeprefix("plink_"), "product_type": "payment_link_v2", "_link": link_id}
    return made


def order_attempted(order: Entity) -> Entity:
    """One more payment attempt, whatever becomes of it; a paid order stays paid."""
    status = "attempted" if order["status"] == "created" else order["status"]
    return {**order, "attempts": order["attempts"] + 1, "status": status}


def order_credited(order: Entity, amount: int) -> Entity:
    """The order after a capture of `amount`."""
    paid = order["amount_paid"] + amount
    due = order["amount"] - paid
    assert due >= 0, "a capture never exceeds what the order still needs"  # noqa: S101 - invariant kept on in production
    return {**order, "amount_paid": paid, "amount_due": due, "status": "attempted" if due else "paid"}


# Payments: created -> authorized -> captured -> refunded, or failed.


def payment(
    payment_id: str, *, amount: int, order: Entity, link: Entity | None, vpa: str, rrn: str, upi_id: str, now: int
) -> Entity:
    """An authorised UPI payment for an order; notes and customer come from the link when there is one."""
    customer = (link or {}).get("customer") or {}
    return {
        "id": payment_id,
        "entity": "payment",
        "amount": amount,
        "currency": order["currency"],
        "status": "authorized",
        "order_id": order["id"],
        "invoice_id": None,
        "international": False,
        "method": "upi",
        "amount_refunded": 0,
        "amount_transferred": 0,
        "refund_status": None,
        "captured": False,
        "description": None if link is None else "#" + link["id"].removeprefix("plink_"),
        "card_id": None,
        "bank": None,
        "wallet": None,
        "vpa": vpa,
        "upi": {"payer_account_type": "bank_account", "vpa": vpa, "flow": "collect"},
        "email": customer.get("email") or "void@razorpay.com",
        "contact": customer.get("contact"),
        "notes": (order if link is None else link)["notes"] or [],
        "fee": None,
        "tax": None,
        "fee_bearer": "platform",
        "error_code": None,
        "error_description": None,
        "error_source": None,
        "error_step": None,
        "error_reason": None,
        "acquirer_data": {"rrn": rrn, "upi_transaction_id": upi_id},
        "created_at": now,
    }


def payment_failed(payment: Entity) -> Entity:
    """The attempt declined by the payer's bank. Not final at Razorpay: a later step may still capture it."""
    return {
        **payment,
        "status": "failed",
        "error_code": "BAD_REQUEST_ERROR",
        "error_description": "Payment was unsuccessful due to a temporary issue. Any amount deducted will be refunded "
        "within 5-7 working days.",
        "error_source": "bank",
        "error_step": "payment_authorization",
        "error_reason": "payment_failed",
        "acquirer_data": {"rrn": None},
    }


def payment_captured(payment: Entity) -> Entity:
    """The payment once its money is ours; fee and tax are known from here on."""
    fee, tax = fee_of(payment["amount"])
    return {**payment, "status": "captured", "captured": True, "fee": fee, "tax": tax}


def payment_refunded(payment: Entity, amount: int) -> Entity:
    """The payment after a refund of `amount`: partial refunds leave it captured."""
    total = payment["amount_refunded"] + amount
    assert total <= payment["amount"], "refunds never exceed the payment"  # noqa: S101 - invariant kept on in production
    if total == payment["amount"]:
        return {**payment, "amount_refunded": total, "refund_status": "full", "status": "refunded"}
    return {**payment, "amount_refunded": total, "refund_status": "partial"}


def refund(
    refund_id: str, *, payment: Entity, amount: int, notes: Entity, receipt: str | None, speed: str, arn: str, now: int
) -> Entity:
    """A refund of a captured payment; the sandbox's bank is quick, so it is processed at once."""
    return {
        "id": refund_id,
        "entity": "refund",
        "amount": amount,
        "currency": payment["currency"],
        "payment_id": payment["id"],
        "notes": notes or [],
        "receipt": receipt,
        "acquirer_data": {"arn": arn},
        "created_at": now,
        "batch_id": None,
        "status": "processed",
        "speed_requested": speed,
        "speed_processed": "instant" if speed == "optimum" else "normal",
    }


# Payment links: created -> partially_paid -> paid, or expired, or cancelled.


def link(link_id: str, *, fields: Entity, short_url: str, now: int) -> Entity:
    """A new payment link from checked request fields. `order_id` appears once it is opened (`link_opened`)."""
    return {
        "accept_partial": fields.get("accept_partial", False),
        "amount": fields["amount"],
        "amount_paid": 0,
        "callback_method": fields.get("callback_method", ""),
        "callback_url": fields.get("callback_url", ""),
        "cancelled_at": 0,
        "created_at": now,
        "currency": fields["currency"],
        "customer": fields.get("customer", {}),
        "description": fields.get("description", ""),
        "expire_by": fields.get("expire_by", 0),
        "expired_at": 0,
        "first_min_partial_amount": fields.get("first_min_partial_amount", 0),
        "id": link_id,
        "notes": fields.get("notes") or None,
        "notify": {"email": False, "sms": False, "whatsapp": False} | fields.get("notify", {}),
        "payments": None,
        "reference_id": fields.get("reference_id", ""),
        "reminder_enable": fields.get("reminder_enable", False),
        "reminders": [],
        "short_url": short_url,
        "status": "created",
        "updated_at": now,
        "upi_link": False,
        "user_id": "",
        "whatsapp_link": False,
    }


def link_is_open(link: Entity) -> bool:
    """Whether the link can still take money."""
    return link["status"] in ("created", "partially_paid")


def link_due_at(link: Entity) -> int | None:
    """When an open link expires (epoch seconds); None once it is closed."""
    return (link["expire_by"] or link["created_at"] + LINK_LIFE_S) if link_is_open(link) else None


def link_opened(link: Entity, order_id: str, now: int) -> Entity:
    """The link after its page was first opened: from here on it has an order."""
    return {**link, "order_id": order_id, "payments": [], "updated_at": now}


def link_credited(link: Entity, payment: Entity, now: int) -> Entity:
    """The link after one of its payments was captured."""
    paid = link["amount_paid"] + payment["amount"]
    entry = {
        "amount": payment["amount"],
        "created_at": payment["created_at"],
        "method": payment["method"],
        "payment_id": payment["id"],
        "plink_id": link["id"],
        "status": "captured",
        "updated_at": now,
    }
    status = "paid" if paid >= link["amount"] else "partially_paid"
    payments = [*(link["payments"] or []), entry]
    return {**link, "amount_paid": paid, "payments": payments, "status": status, "updated_at": now}


def link_closed(link: Entity, status: str, now: int) -> Entity:
    """The link `cancelled` or `expired`; the matching `..._at` leaves 0."""
    return {**link, "status": status, f"{status}_at": now, "updated_at": now}
