"""Answers that say what is wrong: RFC 9457, problem details for HTTP APIs."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import orjson
from starlette.responses import Response


class Problem(Response):
    """An answer that knows its `code`, for whoever counts what calls fail of."""

    media_type = "application/problem+json"

    def __init__(self, status: HTTPStatus, code: str, body: bytes) -> None:
        super().__init__(body, status_code=status.value)
        self.code = code


def problem(status: HTTPStatus, code: str, detail: str, **more: Any) -> Problem:
    """`type` (from `code`) is stable and can be switched on, `detail` is for people, `more` are further members."""
    body = {
        "type": f"urn:khata:problem:{code}",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
        "code": code,
    }
    return Problem(status, code, orjson.dumps(body | more))
