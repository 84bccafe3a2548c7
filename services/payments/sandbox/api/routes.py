"""The table of calls under /v1."""

from __future__ import annotations

from starlette.routing import Route

from services.payments.sandbox.account import Account
from services.payments.sandbox.api import links, orders, payments, refunds
from services.payments.sandbox.api.call import Handler, endpoint

CALLS: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/v1/orders", orders.create),
    ("GET", "/v1/orders", orders.listing),
    ("GET", "/v1/orders/{id}", orders.fetch),
    ("PATCH", "/v1/orders/{id}", orders.edit),
    ("GET", "/v1/orders/{id}/payments", orders.payments),
    ("GET", "/v1/payments", payments.listing),
    ("GET", "/v1/payments/{id}", payments.fetch),
    ("PATCH", "/v1/payments/{id}", payments.edit),
    ("POST", "/v1/payments/{id}/capture", payments.capture),
    ("POST", "/v1/payments/{id}/refund", refunds.create),
    ("GET", "/v1/payments/{id}/refunds", refunds.of_payment),
    ("GET", "/v1/payments/{payment_id}/refunds/{id}", refunds.fetch),
    ("GET", "/v1/refunds", refunds.listing),
    ("GET", "/v1/refunds/{id}", refunds.fetch),
    ("PATCH", "/v1/refunds/{id}", refunds.edit),
    ("POST", "/v1/payment_links", links.create),
    ("GET", "/v1/payment_links", links.listing),
    ("GET", "/v1/payment_links/{id}", links.fetch),
    ("PATCH", "/v1/payment_links/{id}", links.edit),
    ("POST", "/v1/payment_links/{id}/cancel", links.cancel),
    ("POST", "/v1/payment_links/{id}/notify_by/{medium}", links.notify),
)


def routes(account: Account) -> list[Route]:
    """Starlette routes of the whole table."""
    return [Route(path, endpoint(account, handler), methods=[method]) for method, path, handler in CALLS]
