"""Changes that touch several entities: open, pay, capture, refund, expire, cancel; and the events each causes.

Every function here runs inside a transaction of its caller (`expire_links` opens its own), so an entity never changes
without the events that tell about it.
"""

from __future__ import annotations

import secrets

from services.payments.sandbox import ids, objects, outbox
from services.payments.sandbox.account import Account
from services.payments.sandbox.errors import NOT_FOUND, ApiError
from services.payments.sandbox.objects import Entity
from services.payments.sandbox.webhooks import Event

SUCCESS_VPA = "success@razorpay"
FAILURE_VPA = "failure@razorpay"


def find(account: Account, prefix: str, entity_id: str) -> Entity:
    """The entity, or Razorpay's refusal: 400 for an id that is malformed or unknown, never 404."""
    if not ids.is_valid(prefix, entity_id):
        raise ApiError(f"{entity_id} is not a valid id")
    entity = account.store.get(entity_id)
    if entity is None:
        raise ApiError(NOT_FOUND)
    return entity


def link_of(account: Account, order: Entity) -> Entity | None:
    """The payment link an order was made for, if any."""
    return account.store.get(order["_link"]) if "_link" in order else None


def open_link(account: Account, link: Entity) -> tuple[Entity, Entity]:
    """`(link, its order)`. The first opening creates the order, with the reference_id as its receipt."""
    if "order_id" in link:
        return link, find(account, "order", link["order_id"])
    now = account.now()
    order = objects.order(
        ids.new("order"),
        amount=link["amount"],
        currency=link["currency"],
        receipt=link["reference_id"] or None,
        notes=link["notes"] or {},
        capture=account.knobs.auto_capture,
        now=now,
        link_id=link["id"],
        partial=link["accept_partial"],
        first_minimum=link["first_min_partial_amount"] or None,
    )
    link = objects.link_opened(link, order["id"], now)
    account.store.put("order", order)
    account.store.put("payment_link", link)
    return link, order


def pay_link(account: Account, link_id: str, vpa: str, amount: int | None = None) -> tuple[Entity, Entity]:
    """`(link, payment)` after the customer pressed Pay. A paid link is not paid again: it shows its last payment.

    Raises ApiError for a link that is expired or cancelled, or an amount the link does not take.
    """
    link = find(account, "plink", link_id)
    if link["status"] == "paid":
        return link, find(account, "pay", link["payments"][-1]["payment_id"])
    if not objects.link_is_open(link):
        raise ApiError(f"Payment Link is {link['status']}")
    _, order = open_link(account, link)
    order |= {"_partial": link["accept_partial"]}  # a change of the link after it was opened counts
    payment = pay_order(account, order, vpa, amount)
    return find(account, "plink", link_id), payment


def pay_order(account: Account, order: Entity, vpa: str, amount: int | None = None) -> Entity:
    """One attempt to pay an order by UPI with one of the test instruments; captured at once unless told otherwise.

    `amount` in minor units, absent for all that is due. Raises ApiError for a paid order, an unknown instrument, or
    a part of the amount where only the whole is taken.
    """
    if order["status"] == "paid":
        raise ApiError("Payment already done for this order.")
    if vpa not in (SUCCESS_VPA, FAILURE_VPA):
        raise ApiError(f"Invalid VPA. In test mode pay with {SUCCESS_VPA} or {FAILURE_VPA}", field="vpa")
    payment = objects.payment(
        ids.new("pay"),
        amount=_amount_to_pay(order, amount),
        order=order,
        link=link_of(account, order),
        vpa=vpa,
        rrn=str(secrets.randbelow(9 * 10**11) + 10**11),
        upi_id=secrets.token_hex(16).upper(),
        now=account.now(),
    )
    order = objects.order_attempted(order)
    account.store.put("order", order)
    if vpa == FAILURE_VPA:
        payment = objects.payment_failed(payment)
        account.store.put("payment", payment)
        outbox.queue(account, [Event("payment.failed", {"payment": payment}, account.now())])
        return payment
    account.store.put("payment", payment)
    events = [Event("payment.authorized", {"payment": payment}, account.now())]
    if order["_capture"]:
        payment, more = _capture(account, payment, order)
        events += more
    outbox.queue(account, events)
    return payment


def _amount_to_pay(order: Entity, amount: int | None) -> int:
    due: int = order["amount_due"]
    if amount is None or amount == due:
        return due
    if not order["_partial"]:
        raise ApiError("Payment amount must be equal to the amount due.", field="amount")
    minimum = order["_first_minimum"] if order["_first_minimum"] and not order["amount_paid"] else 100
    if not min(minimum, due) <= amount <= due:
        raise ApiError(f"The amount must be between {min(minimum, due)} and {due}.", field="amount")
    return amount


def capture(account: Account, payment: Entity, amount: int, currency: str) -> Entity:
    """Take the money of an authorised payment. Once only; the amount must equal the authorised one.

    Raises ApiError with Razorpay's texts for each way this can be wrong.
    """
    if payment["status"] in ("captured", "refunded"):
        raise ApiError("This payment has already been captured")
    if payment["status"] != "authorized":
        raise ApiError("Only payments which have been authorized and not yet captured can be captured")
    if currency != payment["currency"]:
        raise ApiError("The currency should be the same as that of the payment.", field="currency")
    if amount != payment["amount"]:
        raise ApiError("Capture amount must be equal to the amount authorized.", field="amount")
    order = find(account, "order", payment["order_id"])
    if order["status"] == "paid" or amount > order["amount_due"]:
        raise ApiError("Capture failed because the order is already paid.")
    payment, events = _capture(account, payment, order)
    outbox.queue(account, events)
    return payment


def _capture(account: Account, payment: Entity, order: Entity) -> tuple[Entity, list[Event]]:
    now = account.now()
    payment = objects.payment_captured(payment)
    order = objects.order_credited(order, payment["amount"])
    account.store.put("payment", payment)
    account.store.put("order", order)
    events = [Event("payment.captured", {"payment": payment}, now)]
    if order["status"] == "paid":
        events.append(Event("order.paid", {"payment": payment, "order": order}, now))
    link = link_of(account, order)
    if link is not None:
        link = objects.link_credited(link, payment, now)
        account.store.put("payment_link", link)
        entities = {"payment_link": link, "order": order, "payment": payment}
        events.append(Event(f"payment_link.{link['status']}", entities, now))
    return payment, events


def refund(
    account: Account, payment: Entity, *, amount: int | None, notes: Entity, receipt: str | None, speed: str
) -> Entity:
    """Give money back, all that is left when `amount` is None. Raises ApiError beyond what was captured."""
    if payment["status"] == "refunded":
        raise ApiError("The payment has been fully refunded already")
    if payment["status"] != "captured":
        raise ApiError("The payment status should be captured for action to be taken")
    left = payment["amount"] - payment["amount_refunded"]
    amount = left if amount is None else amount
    if amount > payment["amount"]:
        raise ApiError("The refund amount provided is greater than amount captured", field="amount")
    if amount > left:
        raise ApiError("The total refund amount is greater than the refund payment amount", field="amount")
    now = account.now()
    made = objects.refund(
        ids.new("rfnd"),
        payment=payment,
        amount=amount,
        notes=notes,
        receipt=receipt,
        speed=speed,
        arn=str(secrets.randbelow(9 * 10**14) + 10**14),
        now=now,
    )
    payment = objects.payment_refunded(payment, amount)
    account.store.put("payment", payment)
    account.store.put("refund", made)
    entities = {"refund": made, "payment": payment}
    outbox.queue(account, [Event("refund.created", entities, now), Event("refund.processed", entities, now)])
    return made


def cancel_link(account: Account, link: Entity) -> Entity:
    """Close a link nobody has paid. Raises ApiError once money came in or it is closed already."""
    if link["status"] in ("paid", "partially_paid"):
        raise ApiError("cannot cancel or expire an already paid/partially paid link")
    if link["status"] != "created":
        raise ApiError(f"Payment Link is already {link['status']}")
    return _close(account, link, "cancelled")


def expire_links(account: Account) -> None:
    """Close every open link whose time is up. Does nothing, and writes nothing, when there is none."""
    now = account.now()
    if not account.store.links_due(now):
        return
    with account.store.transaction():
        for link in account.store.links_due(now):
            _close(account, link, "expired")


def _close(account: Account, link: Entity, status: str) -> Entity:
    link = objects.link_closed(link, status, account.now())
    account.store.put("payment_link", link)
    outbox.queue(account, [Event(f"payment_link.{status}", {"payment_link": link}, account.now())])
    return link
