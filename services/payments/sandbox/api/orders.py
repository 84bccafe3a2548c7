"""Orders: /v1/orders."""

from __future__ import annotations

from typing import Any

from services.payments.sandbox import checks, flows, ids, objects
from services.payments.sandbox.api.call import Call, collection
from services.payments.sandbox.errors import ApiError

CREATE = frozenset(
    [
        "amount",
        "currency",
        "receipt",
        "notes",
        "partial_payment",
        "first_payment_min_amount",
        "payment",
        "payment_capture",
    ]
)
CAPTURE = frozenset({"capture", "capture_options"})
LIST = frozenset({"count", "skip", "from", "to", "receipt"})


def create(call: Call) -> dict[str, Any]:
    """A new order. Razorpay has no idempotency here: the same receipt twice makes two orders."""
    checks.only(call.body, CREATE)
    partial = checks.flag(call.body, "partial_payment")
    minimum = checks.amount(call.body, "first_payment_min_amount") if "first_payment_min_amount" in call.body else None
    amount = checks.amount(call.body)
    if minimum is not None and (not partial or minimum > amount):
        raise ApiError("first_payment_min_amount needs partial_payment and may not exceed the amount")
    order = objects.order(
        ids.new("order"),
        amount=amount,
        currency=checks.currency(call.body),
        receipt=checks.text(call.body, "receipt", 40),
        notes=checks.notes(call.body),
        capture=_captures(call),
        now=call.account.now(),
        partial=partial,
        first_minimum=minimum,
    )
    call.account.store.put("order", order)
    return objects.public(order)


def _captures(call: Call) -> bool:
    """A `payment` block overrides the account; `payment_capture` is its deprecated form."""
    mode = checks.section(call.body, "payment", CAPTURE).get("capture")
    if mode not in (None, "automatic", "manual"):
        raise ApiError("The selected capture is invalid.", field="capture")
    if mode is not None:
        return bool(mode == "automatic")
    return checks.flag(call.body, "payment_capture", call.account.knobs.auto_capture)


def fetch(call: Call) -> dict[str, Any]:
    """One order."""
    return objects.public(flows.find(call.account, "order", call.path["id"]))


def edit(call: Call) -> dict[str, Any]:
    """Only the notes of an order can change."""
    checks.only(call.body, frozenset({"notes"}))
    order = {**flows.find(call.account, "order", call.path["id"]), "notes": checks.notes(call.body) or []}
    call.account.store.put("order", order)
    return objects.public(order)


def listing(call: Call) -> dict[str, Any]:
    """A page of orders, newest first, all or those with one receipt."""
    checks.only(call.query, LIST)
    orders = call.account.store.page("order", checks.page(call.query), call.query.get("receipt"))
    return collection([objects.public(order) for order in orders])


def payments(call: Call) -> dict[str, Any]:
    """All attempts to pay an order, newest first: a failed one may stand before the captured one."""
    order = flows.find(call.account, "order", call.path["id"])
    return collection(call.account.store.children("payment", order["id"]))
