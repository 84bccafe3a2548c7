"""Answers that say what is wrong: RFC 9457, problem details for HTTP APIs."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import orjson
from starlette.responses import Response


def problem(status: HTTPStatus, code: str, detail: str, **more: Any) -> Response:
    """`type` (from `code`) is stable and can be switched on, `detail` is for people, `more` are further members."""
    body = {
        "type": f"urn:khata:problem:{code}",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
        "code": code,
    }
    return Response(orjson.dumps(body | more), status_code=status.value, media_type="application/problem+json")
