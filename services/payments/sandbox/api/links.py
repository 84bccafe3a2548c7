"""Payment links: /v1/payment_links."""

from __future__ import annotations

import sqlite3
from typing import Any

from services.payments.sandbox import checks, flows, ids, objects
from services.payments.sandbox.api.call import Call
from services.payments.sandbox.errors import ApiError

CREATE = frozenset(
    [
        "amount",
        "currency",
        "accept_partial",
        "first_min_partial_amount",
        "description",
        "reference_id",
        "customer",
        "expire_by",
        "notify",
        "reminder_enable",
        "notes",
        "callback_url",
        "callback_method",
        "upi_link",
        "options",
    ]
)
EDIT = frozenset(["reference_id", "expire_by", "notes", "accept_partial", "reminder_enable"])
LIST = frozenset(["payment_id", "reference_id", "count", "skip", "from", "to"])
CUSTOMER = frozenset({"name", "email", "contact"})
NOTIFY = frozenset({"email", "sms", "whatsapp"})
NOTE_LIMIT = 255  # one less than elsewhere: the text of Razorpay's error for links
SOONEST_S = 15 * 60


def create(call: Call) -> dict[str, Any]:
    """A new link. Its reference_id may never have been used before, whatever became of that link."""
    checks.only(call.body, CREATE)
    link_id = ids.new("plink")
    short_url = f"{call.account.settings.base_url}/l/{link_id}"
    link = objects.link(link_id, fields=_new_fields(call), short_url=short_url, now=call.account.now())
    _store(call, link)
    return link


def _new_fields(call: Call) -> dict[str, Any]:
    body = call.body
    fields = _shared_fields(call) | {"amount": checks.amount(body), "currency": checks.currency(body, default="INR")}
    if checks.flag(body, "upi_link"):
        raise ApiError("UPI Payment Links is not supported in Test Mode")
    if "first_min_partial_amount" in body:
        fields["first_min_partial_amount"] = checks.amount(body, "first_min_partial_amount")
        if not fields["accept_partial"] or fields["first_min_partial_amount"] > fields["amount"]:
            raise ApiError("first_min_partial_amount needs accept_partial and may not exceed the amount")
    fields["description"] = checks.text(body, "description", 2048) or ""
    customer = checks.section(body, "customer", CUSTOMER)
    fields["customer"] = {name: checks.text(customer, name, 255) for name in customer}
    notify = checks.section(body, "notify", NOTIFY)
    fields["notify"] = {name: checks.flag(notify, name) for name in notify}
    fields["callback_url"] = checks.text(body, "callback_url", 2048) or ""
    fields["callback_method"] = checks.text(body, "callback_method", 10) or ""
    if fields["callback_url"] and not fields["callback_url"].startswith(("http://", "https://")):
        raise ApiError("The callback url format is invalid.", field="callback_url")
    if bool(fields["callback_url"]) != (fields["callback_method"] == "get"):
        raise ApiError("callback_method should be get when callback_url is sent", field="callback_method")
    return fields


def _shared_fields(call: Call) -> dict[str, Any]:
    """Fields that a creation and a change have in common, checked."""
    body = call.body
    expire_by = checks.whole(body, "expire_by") or 0
    now = call.account.now()
    if expire_by and expire_by < now + SOONEST_S:
        raise ApiError("timestamp must be atleast 15 minutes in future", field="expire_by")
    if expire_by > now + objects.LINK_LIFE_S:
        raise ApiError("expire_by may not be more than 6 months in future", field="expire_by")
    return {
        "reference_id": checks.text(body, "reference_id", 40) or "",
        "expire_by": expire_by,
        "notes": checks.notes(body, NOTE_LIMIT) or None,
        "accept_partial": checks.flag(body, "accept_partial"),
        "reminder_enable": checks.flag(body, "reminder_enable"),
    }


def _store(call: Call, link: dict[str, Any]) -> None:
    try:
        call.account.store.put("payment_link", link)
    except sqlite3.IntegrityError as error:
        text = "payment link creation with reference ID already attempted"
        raise ApiError(text, field="reference_id") from error


def fetch(call: Call) -> dict[str, Any]:
    """One link."""
    return flows.find(call.account, "plink", call.path["id"])


def edit(call: Call) -> dict[str, Any]:
    """Change what may change while the link can still take money; never its amount."""
    checks.only(call.body, EDIT)
    link = flows.find(call.account, "plink", call.path["id"])
    if not objects.link_is_open(link):
        raise ApiError("Payment Link can be updated only in created or partially paid state")
    changes = {name: value for name, value in _shared_fields(call).items() if name in call.body}
    link = {**link, **changes, "updated_at": call.account.now()}
    _store(call, link)
    return link


def listing(call: Call) -> dict[str, Any]:
    """A page of links, newest first, in a shape of its own: no entity, no count."""
    checks.only(call.query, LIST)
    page, store = checks.page(call.query), call.account.store
    if "payment_id" in call.query:
        payment = store.get(call.query["payment_id"]) or {}
        order = store.get(payment.get("order_id", "")) or {}
        link = store.get(order.get("_link", ""))
        reference = call.query.get("reference_id")
        matches = link is not None and reference in (None, link["reference_id"])
        return {"payment_links": [link] if matches else []}
    return {"payment_links": store.page("payment_link", page, call.query.get("reference_id"))}


def cancel(call: Call) -> dict[str, Any]:
    """Close a link nobody has paid."""
    checks.only(call.body, frozenset())
    return flows.cancel_link(call.account, flows.find(call.account, "plink", call.path["id"]))


def notify(call: Call) -> dict[str, Any]:
    """Pretend to send the link by SMS or e-mail."""
    flows.find(call.account, "plink", call.path["id"])
    if call.path["medium"] not in ("sms", "email"):
        raise ApiError("Not a valid communication medium: " + call.path["medium"])
    return {"success": True}
