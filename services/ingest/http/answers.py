"""What the HTTP door answers. Every code of a problem is stable and listed in the OpenAPI document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import orjson
from starlette.responses import Response

from shared.domain.errors import Rejected
from shared.runtime.problems import problem

RETRY_AFTER_S = 2

# Codes with a status of their own; every other one says something about an event: 422.
STATUS = {
    "malformed": HTTPStatus.BAD_REQUEST,
    "invalid_parameter": HTTPStatus.BAD_REQUEST,
    "unauthenticated": HTTPStatus.UNAUTHORIZED,
    "forbidden": HTTPStatus.FORBIDDEN,
    "wrong_project": HTTPStatus.FORBIDDEN,
    "too_slow": HTTPStatus.REQUEST_TIMEOUT,
    "too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "too_many_events": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "unsupported_media_type": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "unsupported_content_encoding": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "rate_limited": HTTPStatus.TOO_MANY_REQUESTS,
}


def json_answer(status: HTTPStatus, body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), status_code=status.value, media_type="application/json")


def refused(error: Rejected) -> Response:
    """The whole call is refused."""
    status = STATUS.get(error.code, HTTPStatus.UNPROCESSABLE_ENTITY)
    answer = problem(status, error.code, error.message)
    if status is HTTPStatus.UNAUTHORIZED:
        answer.headers["www-authenticate"] = "Bearer"
    if error.code == "unsupported_content_encoding":
        answer.headers["accept-encoding"] = "gzip, zstd"  # RFC 9110 section 12.5.3
    return answer


def none_accepted(errors: Sequence[dict[str, Any]], *, single: bool) -> Response:
    """No event of the call could be accepted; one event alone speaks for the call."""
    first = errors[0]
    if single:
        status = STATUS.get(first["code"], HTTPStatus.UNPROCESSABLE_ENTITY)
        return problem(status, first["code"], first["message"], errors=errors)
    text = "none of the events could be accepted"
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "all_rejected", text, errors=errors)


def unavailable() -> Response:
    answer = problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "Not accepted: send the same events again.")
    answer.headers["retry-after"] = str(RETRY_AFTER_S)
    return answer


def throttled(retry_after_s: float) -> Response:
    text = "This key sends faster than its limit. Nothing of this call was accepted: send it again later."
    answer = problem(HTTPStatus.TOO_MANY_REQUESTS, "rate_limited", text)
    answer.headers["retry-after"] = str(max(1, math.ceil(retry_after_s)))
    return answer
