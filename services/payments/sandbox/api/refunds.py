"""Refunds: made under /v1/payments/:id/refund, read there and under /v1/refunds.

The only creation with idempotency (Razorpay: `X-Refund-Idempotency`): the same key and body again gives the first
refund; the same key with another body is refused with 409.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from services.payments.sandbox import checks, flows
from services.payments.sandbox.api.call import Call, collection
from services.payments.sandbox.errors import NOT_FOUND, ApiError

CREATE = frozenset({"amount", "speed", "notes", "receipt"})
LIST = frozenset({"count", "skip", "from", "to"})
KEY = re.compile(r"[0-9A-Za-z_-]{10,}")


def create(call: Call) -> dict[str, Any]:
    """Refund a captured payment, or give the refund this idempotency key made before."""
    payment = flows.find(call.account, "pay", call.path["id"])
    checks.only(call.body, CREATE)
    key, fingerprint = call.refund_key, _fingerprint(payment["id"], call.body)
    if key is not None:
        if KEY.fullmatch(key) is None:
            raise ApiError(
                "The idempotency key must be at least 10 characters long and can contain alphabets, numbers, hyphens "
                "and underscores only."
            )
        known = call.account.store.refund_key(key)
        if known is not None and known[0] != fingerprint:
            raise ApiError("Different request with the same idempotency key has already been processed.", status=409)
        if known is not None:
            return flows.find(call.account, "rfnd", known[1])
    speed = call.body.get("speed", "normal")
    if speed not in ("normal", "optimum"):
        raise ApiError("The selected speed is invalid.", field="speed")
    refund = flows.refund(
        call.account,
        payment,
        amount=checks.amount(call.body) if call.body.get("amount") is not None else None,
        notes=checks.notes(call.body),
        receipt=checks.text(call.body, "receipt", 40),
        speed=speed,
    )
    if key is not None:
        call.account.store.keep_refund_key(key, fingerprint, refund["id"])
    return refund


def _fingerprint(payment_id: str, body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([payment_id, body], sort_keys=True).encode()).hexdigest()


def fetch(call: Call) -> dict[str, Any]:
    """One refund; under a payment, only a refund of that payment."""
    refund = flows.find(call.account, "rfnd", call.path["id"])
    if call.path.get("payment_id", refund["payment_id"]) != refund["payment_id"]:
        raise ApiError(NOT_FOUND)
    return refund


def edit(call: Call) -> dict[str, Any]:
    """Only the notes of a refund can change."""
    checks.only(call.body, frozenset({"notes"}))
    refund = {**flows.find(call.account, "rfnd", call.path["id"]), "notes": checks.notes(call.body) or []}
    call.account.store.put("refund", refund)
    return refund


def listing(call: Call) -> dict[str, Any]:
    """A page of all refunds, newest first."""
    checks.only(call.query, LIST)
    return collection(call.account.store.page("refund", checks.page(call.query)))


def of_payment(call: Call) -> dict[str, Any]:
    """A page of one payment's refunds, newest first."""
    checks.only(call.query, LIST)
    payment = flows.find(call.account, "pay", call.path["id"])
    page = checks.page(call.query)
    refunds = [
        refund
        for refund in call.account.store.children("refund", payment["id"])
        if page.from_at <= refund["created_at"] <= page.to_at
    ]
    return collection(refunds[page.skip : page.skip + page.count])
