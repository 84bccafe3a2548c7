"""What every call under /v1 goes through.

1  fault      a waiting fault may answer instead (the gateway in front of Razorpay)
2  key        HTTP Basic, 401 otherwise
3  body       JSON or a form, 400 otherwise
4  in flight  a refund's idempotency key is held until the answer; the same key meanwhile is refused with 409
5  pause      the `slow` fault
6  act        links whose time is up expire; then the handler, in one transaction with the events it causes
7  answer     200 also for a creation, or none at all for the `commit_then_drop` fault
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from services.payments.sandbox import faults, flows
from services.payments.sandbox.account import Account
from services.payments.sandbox.errors import ApiError
from services.payments.sandbox.replies import Dropped, reply

MAX_BODY_BYTES = 1 << 20


@dataclass(frozen=True)
class Call:
    """One authenticated call, ready to act on."""

    account: Account
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: dict[str, Any]
    refund_key: str | None


Handler = Callable[[Call], dict[str, Any]]


def endpoint(account: Account, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """A Starlette endpoint around a handler, which is a plain function and must not await."""

    async def run(request: Request) -> Response:
        fault = account.faults.take(request.method, request.url.path)
        answer = faults.instead(fault) if fault else None
        if answer is not None:
            return answer
        try:
            authenticate(account, request.headers.get("authorization", ""))
            call = Call(
                account=account,
                path=request.path_params,
                query=request.query_params,
                body=await read_body(request),
                refund_key=request.headers.get("x-refund-idempotency"),
            )
            with held(account, call.refund_key):
                if fault and fault.kind == "slow":
                    await asyncio.sleep(fault.seconds)
                flows.expire_links(account)
                with account.store.transaction():
                    result = handler(call)
        except ApiError as error:
            answer = reply(error.body(), error.status)
        else:
            answer = reply(result)
        return Dropped() if fault and fault.kind == "commit_then_drop" else answer

    return run


def authenticate(account: Account, header: str) -> None:
    """Check HTTP Basic `key_id:key_secret`. Raises ApiError 401."""
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "basic" or not token:
        raise ApiError("Please provide your api key for authentication purposes.", status=401)
    try:
        key_id, _, secret = base64.b64decode(token, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise ApiError("The api key provided is invalid", status=401) from None
    if not hmac.compare_digest(key_id.encode(), account.settings.key_id.encode()):
        raise ApiError("The api key provided is invalid", status=401)
    if not hmac.compare_digest(secret.encode(), account.settings.key_secret.get_secret_value().encode()):
        raise ApiError("Authentication failed", status=401)


async def read_body(request: Request) -> dict[str, Any]:
    """The request's fields; empty for none. Raises ApiError for what is neither a JSON object nor a form."""
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return dict((await request.form()).items())
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_BODY_BYTES:
            raise ApiError("Request entity too large", status=413)
    if not raw.strip():
        return {}
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise ApiError("The request body is not valid JSON.") from None
    if body == []:  # an empty PHP array, as some clients send for "no fields"
        return {}
    if not isinstance(body, dict):
        raise ApiError("The request body must be a JSON object.")
    return body


@contextmanager
def held(account: Account, refund_key: str | None) -> Iterator[None]:
    """Hold an idempotency key while its request runs. Raises ApiError 409 when another request holds it."""
    if refund_key is None:
        yield
        return
    if refund_key in account.refunds_in_flight:
        raise ApiError("Another request with the same idempotency key is still in progress.", status=409)
    account.refunds_in_flight.add(refund_key)
    try:
        yield
    finally:
        account.refunds_in_flight.discard(refund_key)


def collection(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Razorpay's list shape: no total, no cursor; `count` is that of this page."""
    return {"entity": "collection", "count": len(items), "items": items}
