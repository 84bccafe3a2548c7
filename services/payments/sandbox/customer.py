"""The customer's side: the hosted page of a link, its Pay button, and a stand-in for Checkout on a bare order."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from services.payments.sandbox import checks, flows, page
from services.payments.sandbox.account import Account
from services.payments.sandbox.api.call import read_body
from services.payments.sandbox.errors import ApiError
from services.payments.sandbox.objects import Entity, link_is_open, public
from services.payments.sandbox.replies import reply


def routes(account: Account) -> list[Route]:
    """`/l/{id}`, `/l/{id}/pay` and `/sandbox/orders/{id}/pay`."""
    merchant = account.settings.merchant_name

    async def show(request: Request) -> Response:
        flows.expire_links(account)
        with account.store.transaction():
            try:
                link = flows.find(account, "plink", request.path_params["id"])
            except ApiError:
                return HTMLResponse(page.missing_page(merchant), 404, headers=page.HEADERS)
            # A HEAD request is a preview, not a customer: only a real visit opens the link.
            if request.method == "GET" and link_is_open(link):
                link, _ = flows.open_link(account, link)
        body = page.link_page(link, merchant=merchant, problem=last_problem(account, link))
        return HTMLResponse(body, headers=page.HEADERS)

    async def pay(request: Request) -> Response:
        is_form = not request.headers.get("content-type", "").startswith("application/json")
        flows.expire_links(account)
        try:
            body = await read_body(request)
            vpa = checks.text(body, "vpa", 100) or ""
            with account.store.transaction():
                link, payment = flows.pay_link(
                    account, request.path_params["id"], vpa.strip().lower(), checks.whole(body, "amount")
                )
        except ApiError as error:
            return refusal_page(request.path_params["id"], error) if is_form else reply(error.body(), error.status)
        if is_form:
            return RedirectResponse(after_payment(account, link, payment), 303)
        return reply({"payment_link": link, "payment": payment})

    def refusal_page(link_id: str, error: ApiError) -> Response:
        link = account.store.get(link_id)
        if link is None:
            return HTMLResponse(page.missing_page(merchant), 404, headers=page.HEADERS)
        problem = error.description if link_is_open(link) else None
        return HTMLResponse(page.link_page(link, merchant=merchant, problem=problem), 400, headers=page.HEADERS)

    async def checkout(request: Request) -> Response:
        try:
            body = await read_body(request)
            with account.store.transaction():
                order = flows.find(account, "order", request.path_params["id"])
                vpa = checks.text(body, "vpa", 100) or flows.SUCCESS_VPA
                payment = flows.pay_order(account, order, vpa, checks.whole(body, "amount"))
        except ApiError as error:
            return reply(error.body(), error.status)
        signature = signed(account, f"{order['id']}|{payment['id']}")
        handed = {"razorpay_payment_id": payment["id"], "razorpay_order_id": order["id"]}
        return reply({**handed, "razorpay_signature": signature, "payment": public(payment)})

    return [
        Route("/l/{id}", show, methods=["GET"]),
        Route("/l/{id}/pay", pay, methods=["POST"]),
        Route("/sandbox/orders/{id}/pay", checkout, methods=["POST"]),
    ]


def last_problem(account: Account, link: Entity) -> str | None:
    """Why the newest attempt failed, when the link is still to be paid."""
    if not link_is_open(link) or "order_id" not in link:
        return None
    attempts = account.store.children("payment", link["order_id"])
    if not attempts or attempts[0]["status"] != "failed":
        return None
    return str(attempts[0]["error_description"])


def after_payment(account: Account, link: Entity, payment: Entity) -> str:
    """Where the browser goes next: the merchant's callback once paid, otherwise the link's own page.

    The callback's signature covers `link id|reference id|status|payment id` (Razorpay: payment link callback).
    """
    if not link["callback_url"] or payment["status"] == "failed":
        return f"/l/{link['id']}"
    query: dict[str, Any] = {
        "razorpay_payment_id": payment["id"],
        "razorpay_payment_link_id": link["id"],
        "razorpay_payment_link_reference_id": link["reference_id"],
        "razorpay_payment_link_status": link["status"],
    }
    text = "|".join((link["id"], link["reference_id"], link["status"], payment["id"]))
    query["razorpay_signature"] = signed(account, text)
    callback = str(link["callback_url"])
    return callback + ("&" if "?" in callback else "?") + urlencode(query)


def signed(account: Account, text: str) -> str:
    """What Checkout and callbacks hand to the browser: hex HMAC-SHA256 under the key secret."""
    secret = account.settings.key_secret.get_secret_value()
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()
