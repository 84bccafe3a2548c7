"""POST /v1/events: CloudEvents 1.0; 202 only after Kafka has every event it counts as accepted.

    1  who sends and whether the key's limit is used up (nothing is read before), the body, its form, the limit
    2  every event is checked and stamped
    3  `?validate_only=true`: answer 200 (400 for what is not JSON), nothing is sent
    4  send and wait for every ack        crash or 503: unknown; the same ids sent again count once
    5  answer 202 with the index of each event that was refused

Duplicates are not known here: they are counted as accepted, and once as usage. Errors are RFC 9457 problems.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus

from prometheus_client import Counter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uuid_utils import uuid4

from services.ingest import docs
from services.ingest.accept import accept
from services.ingest.activity import Activity
from services.ingest.http.answers import json_answer, none_accepted, refused, throttled, unavailable
from services.ingest.http.body import Room, read_body
from services.ingest.http.forms import events_of, validate_only
from services.ingest.http.judge import judge
from services.ingest.http.limit import Allowance, Limits, Throttled
from services.ingest.settings import IngestSettings
from services.ingest.validate import Sender
from shared.catalogue.authenticate import authenticate
from shared.catalogue.cache import CatalogueCache
from shared.domain.errors import Rejected, Retryable
from shared.kafka.producer import AckedSender
from shared.observability import logging
from shared.observability import names as metrics
from shared.runtime.failpoints import failpoint
from shared.runtime.problems import problem

PATH = "/v1/events"
SCOPE = "events:write"
REQUEST_ID = "x-request-id"
CLIENT_GONE = 499  # nobody reads it; the metric should not call it a success

_FREE = Allowance()
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

log = logging.get(__name__)


@dataclass(frozen=True, slots=True)
class Door:
    """What the HTTP door works with. `ingest_id` names this process in every record it writes."""

    settings: IngestSettings
    cache: CatalogueCache
    producer: AckedSender
    ingest_id: str
    limits: Limits | None = None
    activity: Activity | None = None
    room: Room = field(default_factory=Room)


def app(door: Door) -> ASGIApp:
    """Calls go straight to the door: on their way through Starlette's routing they would cost a third more."""

    async def events(request: Request) -> Response:
        began = time.perf_counter()
        response = await _answer(door, request)
        if door.activity is not None:
            door.activity.called(request, response)
        _answered(response.status_code).inc()
        _SECONDS.observe(time.perf_counter() - began)
        return response

    answer, fault = _named(events), _named(_our_fault)
    others = Starlette(
        routes=[Route(PATH, answer, methods=["POST"]), *docs.routes()],
        exception_handlers={HTTPException: _named(_elsewhere), Exception: fault},
    )

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await others(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await answer(request)
        except Exception as error:  # noqa: BLE001 - told and answered, as Starlette does it for the others
            response = await fault(request, error)
        await response(scope, receive, send)

    return asgi


_SECONDS = metrics.HTTP_SECONDS.labels(PATH)


@cache
def _answered(status: int) -> Counter:
    return metrics.HTTP_REQUESTS.labels(PATH, str(status))


Answering = Callable[..., Awaitable[Response]]


def _named(answering: Answering) -> Answering:
    """Every answer carries the caller's X-Request-Id, or a new one where it has none that can be echoed."""

    async def answer(request: Request, *more: Exception) -> Response:
        given = request.headers.get(REQUEST_ID, "")
        name = given if _REQUEST_ID.fullmatch(given) else uuid4().hex
        request.state.request_id = name
        response = await answering(request, *more)
        response.raw_headers.append((REQUEST_ID.encode(), name.encode()))
        return response

    return answer


async def _answer(door: Door, request: Request) -> Response:
    limited = _Limited()
    try:
        answer = await _take(door, request, limited)
    except Rejected as error:
        metrics.EVENTS_REJECTED.labels("http", error.code).inc()
        answer = refused(error)
    except Throttled as limit:
        answer = throttled(limit.retry_after_s)
    except Retryable as error:
        log.warning("ingest.unavailable", error=str(error), request_id=request.state.request_id)
        answer = unavailable()
    except ClientDisconnect:
        answer = Response(status_code=CLIENT_GONE)
    for name, value in limited.allowance.headers().items():
        answer.headers[name] = value
    return answer


@dataclass(slots=True)
class _Limited:
    """What the limits said last of a call."""

    allowance: Allowance = _FREE

    def hears(self, allowance: Allowance) -> None:
        """Raises Throttled."""
        self.allowance = allowance
        if allowance.retry_after_s is not None:
            raise Throttled(allowance.retry_after_s)


async def _take(door: Door, request: Request, limited: _Limited) -> Response:
    """Steps 1 to 5; `limited` hears what belongs on the answer, whichever it is.

    Raises Rejected, Throttled and Retryable for the whole call.
    """
    key = await authenticate(request.headers.get("authorization"), door.cache, door.settings.peppers, SCOPE)
    sender = Sender(key.project_id, key.live, key.id)
    request.state.sender = sender  # here and below: for `activity`
    only_asks = validate_only(request.query_params)
    if door.limits is not None:
        limited.hears(door.limits.look(sender))
    with door.room.enter() as held:
        sources = events_of(request.headers, await read_body(request, held))
        if door.limits is not None and not only_asks:
            limited.hears(door.limits.take(sender, len(sources)))
        verdict = await judge(sources, sender, door.cache, door.settings.horizon_days, door.ingest_id)
        request.state.verdict = verdict
        single = len(sources) == 1
        if only_asks and not (single and verdict.errors and verdict.errors[0]["code"] == "malformed"):
            return json_answer(HTTPStatus.OK, {"validate_only": True} | verdict.document())
        for error in verdict.errors:
            metrics.EVENTS_REJECTED.labels("http", error["code"]).inc()
        if not verdict.accepted:
            return none_accepted(verdict.errors, single=single)
        await failpoint("ingest.http.before_ack")
        await accept(verdict.accepted, door.settings.names, door.producer, "http", door.settings.ack_deadline_s)
        return json_answer(HTTPStatus.ACCEPTED, verdict.document())


async def _elsewhere(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    answer = problem(status, status.name.lower(), f"Events go to POST {PATH}; /docs tells how.")
    answer.headers.update(error.headers or {})
    return answer


async def _our_fault(request: Request, error: Exception) -> Response:
    log.error("ingest.failed", error=repr(error), request_id=request.state.request_id)
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal",
        "A fault of ours. Unknown whether accepted: send the events again.",
    )
