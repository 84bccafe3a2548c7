"""POST /v1/events: CloudEvents 1.0, one or a batch; 202 only after Kafka has them all.

Statuses: 202 accepted (with the errors of single events), 400 malformed, 401, 403, 413, 415, 422 nothing
in it could be accepted, 503 with Retry-After when Kafka does not acknowledge. Errors are RFC 9457 problems.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from services.ingest.accept import accept
from services.ingest.authenticate import authenticate
from services.ingest.settings import IngestSettings
from services.ingest.validate import Clock, Sender, read_envelope, split, stamp
from shared.catalogue.cache import CatalogueCache
from shared.contracts.messages.event import StampedEvent
from shared.domain.errors import BrokerAway, Rejected
from shared.kafka.producer import AckedSender
from shared.observability import logging
from shared.observability import names as metrics
from shared.runtime.failpoints import failpoint

MAX_BODY_BYTES = 5 * 1024 * 1024
MAX_EVENTS = 1_000
RETRY_AFTER_S = 2

ONE = "application/cloudevents+json"
MANY = "application/cloudevents-batch+json"
EITHER = "application/json"

STATUS = {
    "malformed": HTTPStatus.BAD_REQUEST,
    "unauthenticated": HTTPStatus.UNAUTHORIZED,
    "forbidden": HTTPStatus.FORBIDDEN,
    "wrong_project": HTTPStatus.FORBIDDEN,
    "too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "too_many_events": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "unsupported_media_type": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
}

log = logging.get(__name__)


@dataclass(frozen=True, slots=True)
class Door:
    """What the HTTP door works with. `ingest_id` names this process in every record it writes."""

    settings: IngestSettings
    cache: CatalogueCache
    producer: AckedSender
    ingest_id: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the events of one call, before Kafka is asked."""

    accepted: list[StampedEvent]
    errors: list[dict[str, Any]]
    stamped: dict[str, str]


def app(door: Door) -> Starlette:
    async def events(request: Request) -> Response:
        began = time.perf_counter()
        request_id = request.headers.get("x-request-id", "")[:128] or uuid.uuid4().hex
        response = await _answer(door, request)
        response.headers["x-request-id"] = request_id
        metrics.HTTP_REQUESTS.labels("/v1/events", str(response.status_code)).inc()
        metrics.HTTP_SECONDS.labels("/v1/events").observe(time.perf_counter() - began)
        return response

    async def elsewhere(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        status = HTTPStatus(error.status_code)
        answer = problem(status, status.name.lower(), "Events go to POST /v1/events.")
        answer.headers.update(error.headers or {})
        return answer

    return Starlette(
        routes=[Route("/v1/events", events, methods=["POST"])], exception_handlers={HTTPException: elsewhere}
    )


async def _answer(door: Door, request: Request) -> Response:
    try:
        if not door.cache.at_end.is_set():
            raise BrokerAway("the catalogue has not been read yet")
        sender = await authenticate(request.headers.get("authorization"), door.cache, door.settings.peppers)
        media_type = request.headers.get("content-type", EITHER).partition(";")[0].strip().lower()
        raws = _events(await _body(request), media_type)
        verdict = await _judge(door, sender, raws)
        if not verdict.accepted:
            return _refused(verdict, single=len(raws) == 1)
        await failpoint("ingest.http.before_ack")
        await accept(verdict.accepted, door.settings.names, door.producer, "http", door.settings.ack_deadline_s)
    except Rejected as error:
        metrics.EVENTS_REJECTED.labels("http", error.code).inc()
        return problem(STATUS.get(error.code, HTTPStatus.UNPROCESSABLE_ENTITY), error.code, error.message)
    except BrokerAway as error:
        log.warning("ingest.unavailable", error=str(error))
        answer = problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "Not accepted: send the same events again.")
        answer.headers["retry-after"] = str(RETRY_AFTER_S)
        return answer
    except ClientDisconnect:
        return Response(status_code=499)  # nobody reads it
    return _json(
        HTTPStatus.ACCEPTED,
        {
            "accepted": len(verdict.accepted),
            "rejected": len(verdict.errors),
            "errors": verdict.errors,
            "times": verdict.stamped,
        },
    )


async def _body(request: Request) -> bytes:
    """The body, never more than the cap in memory. Raises Rejected (`too_large`)."""
    limit = Rejected("too_large", f"a body may have at most {MAX_BODY_BYTES} bytes; send several calls")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_BODY_BYTES:
        raise limit  # before a byte of it is read
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise limit
    return bytes(body)


def _events(body: bytes, media_type: str) -> list[bytes]:
    if media_type not in (ONE, MANY, EITHER):
        raise Rejected("unsupported_media_type", f"content-type must be {ONE}, {MANY} or {EITHER}")
    is_array = body.lstrip()[:1] == b"["
    if media_type == ONE or (media_type == EITHER and not is_array):
        return [body]
    raws = split(body)
    if not raws:
        raise Rejected("malformed", "the batch holds no events")
    if len(raws) > MAX_EVENTS:
        raise Rejected("too_many_events", f"a call may hold at most {MAX_EVENTS} events")
    return raws


async def _judge(door: Door, sender: Sender, raws: list[bytes]) -> Verdict:
    clock = Clock(datetime.now(UTC), timedelta(days=door.settings.horizon_days))
    verdict = Verdict([], [], {})
    refresh = door.cache.refresh_once()
    for index, raw in enumerate(raws):
        try:
            envelope = read_envelope(raw)
            if envelope.type not in door.cache.meters.by_type:
                await refresh()  # a meter may have been made a moment ago
            event = stamp(envelope, sender, door.cache.meters, clock, door.ingest_id, door.cache.version)
        except Rejected as error:
            metrics.EVENTS_REJECTED.labels("http", error.code).inc()
            verdict.errors.append({"index": index, "code": error.code, "message": error.message})
            continue
        verdict.accepted.append(event)
        if envelope.time is None:
            verdict.stamped[str(index)] = event.time.isoformat()
    return verdict


def _refused(verdict: Verdict, *, single: bool) -> Response:
    first = verdict.errors[0]
    status = STATUS.get(first["code"], HTTPStatus.UNPROCESSABLE_ENTITY) if single else HTTPStatus.UNPROCESSABLE_ENTITY
    text = first["message"] if single else "none of the events could be accepted"
    return problem(status, first["code"] if single else "all_rejected", text, errors=verdict.errors)


def problem(status: HTTPStatus, code: str, detail: str, **more: Any) -> Response:
    """RFC 9457: `type` is stable and can be switched on, `detail` is for people."""
    body = {"type": f"urn:khata:problem:{code}", "title": status.phrase, "status": status.value, "detail": detail}
    response = _json(status, body | {"code": code} | more, "application/problem+json")
    if status is HTTPStatus.UNAUTHORIZED:
        response.headers["www-authenticate"] = "Bearer"
    return response


def _json(status: HTTPStatus, body: dict[str, Any], media_type: str = "application/json") -> Response:
    return Response(orjson.dumps(body), status_code=status.value, media_type=media_type)
