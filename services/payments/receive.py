"""POST /webhooks/razorpay: verify, make durable, say 200. Nothing else: no Postgres, no Razorpay, no judgement.

    1  read the raw bytes (413 above the cap)
    2  the signature over exactly these bytes, or 401; nothing unsigned gets any further
    3  produce to payments.webhooks.v1, acked by all replicas
                                           crash before: Razorpay sends it again
    4  200                                 crash between 3 and 4: it comes again, the worker knows it by its event id

Kafka away is 503: Razorpay repeats a delivery for 24 hours (and disables the webhook after that). A local spool
that accepts meanwhile is a later step. Bad JSON, another account or an unknown event with a good signature is
stored and answered 200: repeating would not make it better, and the worker opens a case.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from services.payments.facts import routing_key
from services.payments.signature import fits
from shared.contracts.messages.payment import WebhookMessage, encode_webhook
from shared.domain.errors import BrokerAway, Rejected
from shared.kafka.producer import Producer
from shared.observability import logging
from shared.observability import names as metrics
from shared.postgres.outbox import OutboxMessage
from shared.runtime.failpoints import failpoint
from shared.runtime.problems import problem

PATH = "/webhooks/razorpay"
# Razorpay's bodies are a few kB. In the topic a body travels as base64, a third longer, and a record may have 1 MB.
MAX_BODY_BYTES = 700_000
BODY_DEADLINE_S = 5.0  # Razorpay has given up by then
RETRY_AFTER_S = 5
SIGNATURE = "x-razorpay-signature"
EVENT_ID = "x-razorpay-event-id"
_EVENT_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")

log = logging.get(__name__)


@dataclass(frozen=True, slots=True)
class Door:
    """What the receiver works with. `topic` is the real name of payments.webhooks.v1."""

    producer: Producer
    topic: str
    secrets: tuple[bytes, ...]
    ack_deadline_s: float


def app(door: Door) -> Starlette:
    async def receive(request: Request) -> Response:
        began = time.perf_counter()
        response, result = await _answer(door, request)
        metrics.WEBHOOKS.labels(result).inc()
        metrics.HTTP_REQUESTS.labels(PATH, str(response.status_code)).inc()
        metrics.HTTP_SECONDS.labels(PATH).observe(time.perf_counter() - began)
        if result != "accepted":
            log.warning("webhook.not_accepted", result=result, status=response.status_code)
        return response

    return Starlette(routes=[Route(PATH, receive, methods=["POST"])])


async def _answer(door: Door, request: Request) -> tuple[Response, str]:
    try:
        body = await _body(request)
        if not fits(body, _signature(request), door.secrets):
            return _unsigned(), "bad_signature"
        await door.producer.send([message(door.topic, body, _event_id(request, body))], door.ack_deadline_s)
        await failpoint("receiver.before_ack")
    except Rejected as error:
        return problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error.code, error.message), "too_large"
    except BrokerAway as error:
        log.warning("receiver.unavailable", error=str(error))
        answer = problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "Not stored: deliver it again.")
        answer.headers["retry-after"] = str(RETRY_AFTER_S)
        return answer, "unavailable"
    except (ClientDisconnect, TimeoutError):
        return problem(HTTPStatus.REQUEST_TIMEOUT, "incomplete", "The body did not arrive."), "incomplete"
    return Response(status_code=HTTPStatus.OK.value), "accepted"


async def _body(request: Request) -> bytes:
    """The raw bytes, never more than the cap in memory. Raises Rejected (`too_large`), TimeoutError."""
    limit = Rejected("too_large", f"a webhook may have at most {MAX_BODY_BYTES} bytes")
    if int(request.headers.get("content-length", "0") or 0) > MAX_BODY_BYTES:
        raise limit
    body = bytearray()
    async with asyncio.timeout(BODY_DEADLINE_S):
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise limit
    return bytes(body)


def _signature(request: Request) -> bytes | None:
    """The header's bytes as they came; none at all when there are several."""
    values = [value for name, value in request.scope["headers"] if name == SIGNATURE.encode()]
    return values[0] if len(values) == 1 else None


def _event_id(request: Request, body: bytes) -> str:
    """Razorpay's id of the event, the same on every retry; without a usable one the body speaks for itself."""
    given = request.headers.get(EVENT_ID, "")
    return given if _EVENT_ID.fullmatch(given) else f"sha256-{hashlib.sha256(body).hexdigest()}"


def message(topic: str, body: bytes, event_id: str) -> OutboxMessage:
    """The record of one delivery: all events of one order (or link, or payment) meet on one partition."""
    value = encode_webhook(WebhookMessage(event_id=event_id, received_at=datetime.now(UTC), body=body))
    return OutboxMessage(topic=topic, key=(routing_key(body) or event_id).encode(), value=value)


def _unsigned() -> Response:
    answer = problem(HTTPStatus.UNAUTHORIZED, "bad_signature", "The signature does not fit the body.")
    answer.headers["www-authenticate"] = "X-Razorpay-Signature"
    return answer
