"""Payments: /v1/payments. They are made by customers (the pay page), never through this API."""

from __future__ import annotations

from typing import Any

from services.payments.sandbox import checks, flows
from services.payments.sandbox.api.call import Call, collection
from services.payments.sandbox.errors import ApiError

LIST = frozenset({"count", "skip", "from", "to"})


def fetch(call: Call) -> dict[str, Any]:
    """One payment."""
    return flows.find(call.account, "pay", call.path["id"])


def edit(call: Call) -> dict[str, Any]:
    """Only the notes of a payment can change."""
    checks.only(call.body, frozenset({"notes"}))
    payment = {**flows.find(call.account, "pay", call.path["id"]), "notes": checks.notes(call.body) or []}
    call.account.store.put("payment", payment)
    return payment


def listing(call: Call) -> dict[str, Any]:
    """A page of payments, newest first."""
    checks.only(call.query, LIST)
    return collection(call.account.store.page("payment", checks.page(call.query)))


def capture(call: Call) -> dict[str, Any]:
    """Take the money of an authorised payment."""
    checks.only(call.body, frozenset({"amount", "currency"}))
    payment = flows.find(call.account, "pay", call.path["id"])
    amount = checks.whole(call.body, "amount")
    if amount is None:
        raise ApiError("The amount field is required.", field="amount")
    return flows.capture(call.account, payment, amount, checks.currency(call.body, default="INR"))
