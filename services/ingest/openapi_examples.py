"""Examples of the OpenAPI document: requests, and the answers a server gives to requests like them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "9f2c1c52-1",
    "source": "checkout/eu-1",
    "type": "api.request",
    "subject": "alice",
    "data": {"tokens": 1250},
}
BATCH: list[dict[str, Any]] = [EVENT, EVENT | {"id": "9f2c1c52-2", "subject": "bob", "data": {"tokens": "0.25"}}]
CORRECTION: dict[str, Any] = {
    "specversion": "1.0",
    "id": "fix-1",
    "source": "checkout/eu-1",
    "type": "khata.usage.amend",
    "subject": "alice",
    "data": {"target": {"id": "9f2c1c52-1"}, "data": {"tokens": 125}, "reason": "counted in tenths"},
}
BINARY_HEADERS = {
    "ce-specversion": "1.0",
    "ce-id": "9f2c1c52-3",
    "ce-source": "checkout/eu-1",
    "ce-type": "api.request",
    "ce-subject": "Zo%C3%AB",
}
BINARY_DATA: dict[str, Any] = {"tokens": 3}

NO_VALUE = "meter tokens needs a number at data.tokens: it is missing"
EMPTY_ID = "id is missing"


def _problem(status: HTTPStatus, code: str, detail: str, **more: Any) -> dict[str, Any]:
    return {
        "type": f"urn:khata:problem:{code}",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
        "code": code,
    } | more


def _error(index: int, code: str, message: str) -> dict[str, Any]:
    return {"index": index, "code": code, "message": message}


def _single(status: HTTPStatus, code: str, message: str) -> dict[str, Any]:
    return _problem(status, code, message, errors=[_error(0, code, message)])


_STAMPED = {"0": "2026-10-01T06:30:00.123456+00:00"}
_BATCH_ERRORS = [_error(0, "bad_value", NO_VALUE), _error(1, "invalid_event", EMPTY_ID)]

ANSWERS: dict[int, dict[str, dict[str, Any]]] = {
    200: {
        "would_accept": {"validate_only": True, "accepted": 1, "rejected": 0, "errors": [], "times": _STAMPED},
        "would_reject": {
            "validate_only": True,
            "accepted": 0,
            "rejected": 1,
            "errors": [_error(0, "bad_value", NO_VALUE)],
            "times": {},
        },
    },
    202: {
        "accepted": {"accepted": 1, "rejected": 0, "errors": [], "times": _STAMPED},
        "partly": {"accepted": 1, "rejected": 1, "errors": [_error(1, "bad_value", NO_VALUE)], "times": _STAMPED},
    },
    400: {
        "malformed": _problem(HTTPStatus.BAD_REQUEST, "malformed", "the batch holds no events"),
        "not_gzip": _problem(HTTPStatus.BAD_REQUEST, "malformed", "the body is not gzip: it ends too early"),
        "misspelt": _problem(HTTPStatus.BAD_REQUEST, "invalid_parameter", "the only parameter is validate_only"),
    },
    401: {
        "no_key": _problem(
            HTTPStatus.UNAUTHORIZED, "unauthenticated", "send the API key as `Authorization: Bearer kh_live_...`"
        ),
        "unknown": _problem(HTTPStatus.UNAUTHORIZED, "unauthenticated", "this API key is not known"),
        "over": _problem(HTTPStatus.UNAUTHORIZED, "unauthenticated", "this API key is no longer valid"),
    },
    403: {
        "no_scope": _problem(HTTPStatus.FORBIDDEN, "forbidden", "this API key lacks the scope events:write"),
        "wrong_project": _single(HTTPStatus.FORBIDDEN, "wrong_project", "this sender acts for project 'acme-app' only"),
    },
    405: {
        "only_post": _problem(
            HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", "Events go to POST /v1/events; /docs tells how."
        )
    },
    408: {
        "slow": _problem(HTTPStatus.REQUEST_TIMEOUT, "too_slow", "the body did not come within 30 s"),
    },
    413: {
        "body": _problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "too_large",
            "a body may have at most 5242880 bytes; send several calls",
        ),
        "inflated": _problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "too_large",
            "the inflated body may have at most 5242880 bytes; send several calls",
        ),
        "events": _problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_many_events", "a call may hold at most 1000 events"
        ),
        "event": _single(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", "an event may have at most 262144 bytes"),
    },
    415: {
        "type": _problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "content-type must be application/cloudevents+json, application/cloudevents-batch+json or application/json",
        ),
        "encoding": _problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported_content_encoding",
            "content-encoding must be gzip or zstd, one of them",
        ),
    },
    422: {
        "one": _single(HTTPStatus.UNPROCESSABLE_ENTITY, "bad_value", NO_VALUE),
        "unknown_type": _single(
            HTTPStatus.UNPROCESSABLE_ENTITY, "unknown_event_type", "no meter counts events of type 'api.unheard'"
        ),
        "correction": _single(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "invalid_correction",
            "an amend needs data.data: the whole new data of its target",
        ),
        "reserved_type": _single(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "reserved_type",
            "types that begin with khata. are Khata's own; of them khata.usage.amend and khata.usage.void are taken",
        ),
        "all": _problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "all_rejected",
            "none of the events could be accepted",
            errors=_BATCH_ERRORS,
        ),
    },
    429: {
        "limit": _problem(
            HTTPStatus.TOO_MANY_REQUESTS,
            "rate_limited",
            "This key sends faster than its limit. Nothing of this call was accepted: send it again later.",
        )
    },
    500: {
        "fault": _problem(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "internal",
            "A fault of ours. Unknown whether accepted: send the events again.",
        )
    },
    503: {"away": _problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "Not accepted: send the same events again.")},
}
