"""`/sandbox`: what really happened, and the levers for trouble. No key is asked: the sandbox listens on loopback."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.payments.sandbox import checks, flows, outbox
from services.payments.sandbox.account import DISABLED, Account, Knobs, Webhook
from services.payments.sandbox.api.call import read_body
from services.payments.sandbox.errors import ApiError
from services.payments.sandbox.faults import Fault
from services.payments.sandbox.objects import Entity, public
from services.payments.sandbox.replies import reply


class WebhookChange(BaseModel):
    """What may be changed about the webhook; an absent field stays as it is."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    url: str | None = Field(default=None, pattern=r"^(https?://.+)?$")
    secret: SecretStr | None = None
    enabled: bool | None = None


def ledger(account: Account) -> dict[str, Any]:
    """Everything in the ledger, oldest first, with totals per currency."""
    store = account.store
    payments, refunds = store.everything("payment"), store.everything("refund")
    return {
        "orders": [public(order) for order in store.everything("order")],
        "payments": payments,
        "refunds": refunds,
        "payment_links": store.everything("payment_link"),
        "totals": totals(payments, refunds),
    }


def totals(payments: list[Entity], refunds: list[Entity]) -> dict[str, dict[str, Any]]:
    """Per currency, in minor units: captured (refunded or not), fees with tax, tax, refunded; payments by status."""
    found: dict[str, dict[str, Any]] = {}
    for payment in payments:
        total = found.setdefault(payment["currency"], _nothing())
        total["payments"][payment["status"]] += 1
        if payment["captured"]:
            total["captured"] += payment["amount"]
            total["fees"] += payment["fee"]
            total["tax"] += payment["tax"]
    for refund in refunds:
        found[refund["currency"]]["refunded"] += refund["amount"]
    return found


def _nothing() -> dict[str, Any]:
    return {"captured": 0, "refunded": 0, "fees": 0, "tax": 0, "payments": Counter()}


def routes(account: Account) -> list[Route]:
    """Oracle and levers."""

    async def show_ledger(_: Request) -> Response:
        flows.expire_links(account)
        return reply(ledger(account))

    async def show_deliveries(request: Request) -> Response:
        after = checks.whole(request.query_params, "after") or 0
        return reply({"deliveries": outbox.history(account.store.connection, after)})

    async def knobs(request: Request) -> Response:
        if request.method == "POST":
            account.knobs = Knobs.model_validate(account.knobs.model_dump() | await read_body(request))
        return reply(account.knobs.model_dump())

    async def faults(request: Request) -> Response:
        if request.method == "POST":
            account.faults.waiting.append(Fault.model_validate(await read_body(request)))
        elif request.method == "DELETE":
            account.faults.waiting.clear()
        return reply({"faults": [fault.model_dump() for fault in account.faults.waiting]})

    async def webhook(request: Request) -> Response:
        if request.method == "POST":
            change_webhook(account, WebhookChange.model_validate(await read_body(request)))
        return reply({"url": account.webhook.url, "enabled": account.store.flag(DISABLED) is None})

    return [
        Route("/sandbox/ledger", show_ledger, methods=["GET"]),
        Route("/sandbox/deliveries", _checked(show_deliveries), methods=["GET"]),
        Route("/sandbox/knobs", _checked(knobs), methods=["GET", "POST"]),
        Route("/sandbox/faults", _checked(faults), methods=["GET", "POST", "DELETE"]),
        Route("/sandbox/webhook", _checked(webhook), methods=["GET", "POST"]),
    ]


def change_webhook(account: Account, change: WebhookChange) -> None:
    """Point the webhook elsewhere, rotate its secret, or enable it again (abandoned deliveries stay abandoned)."""
    account.webhook = Webhook(
        url=account.webhook.url if change.url is None else change.url,
        secret=account.webhook.secret if change.secret is None else change.secret,
    )
    if change.enabled is None:
        return
    with account.store.transaction():
        if change.enabled:
            account.store.set_flag(DISABLED, None)
        else:
            outbox.disable_webhook(account)


def _checked(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Answer 400 with the field that is wrong, never with its value (it may be a secret)."""

    async def run(request: Request) -> Response:
        try:
            return await handler(request)
        except ApiError as error:
            return reply(error.body(), error.status)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False, include_context=False)
            return reply({"problems": [{"field": list(p["loc"]), "problem": p["msg"]} for p in problems]}, 400)

    return run
