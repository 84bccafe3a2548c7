"""Faults on demand: the next N calls under a path answer badly, slowly, or act and never answer."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from services.payments.sandbox.errors import ApiError
from services.payments.sandbox.replies import reply

TROUBLE = "We are facing some trouble completing your request at the moment. Please try again shortly."
BAD_GATEWAY = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    "<center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n"
)

FaultKind = Literal["429", "500", "502_html", "empty", "message", "slow", "commit_then_drop"]


class Fault(BaseModel):
    """One order for trouble. `times` counts down as calls meet it; `seconds` is for `slow` alone."""

    model_config = ConfigDict(extra="forbid")

    kind: FaultKind
    path: str = Field(default="/v1/", pattern="^/v1/")
    method: Literal["GET", "POST", "PATCH"] | None = None
    times: int = Field(default=1, ge=1)
    seconds: float = Field(default=0, ge=0, le=600)

    def meets(self, method: str, path: str) -> bool:
        """Whether a call is one this fault waits for."""
        return path.startswith(self.path) and self.method in (None, method)


class Faults:
    """Faults in the order they were asked for; each call uses up at most one. Forgotten by a restart."""

    def __init__(self) -> None:
        self.waiting: list[Fault] = []

    def take(self, method: str, path: str) -> Fault | None:
        """The fault this call meets, counted down."""
        for fault in self.waiting:
            if fault.meets(method, path):
                fault.times -= 1
                self.waiting = [other for other in self.waiting if other.times > 0]
                return fault
        return None


def instead(fault: Fault) -> Response | None:
    """The answer given in place of acting; None for the kinds that act (`slow`, `commit_then_drop`)."""
    match fault.kind:
        case "429":
            text = "Request failed. Please try after sometime."
            return reply(ApiError(text, status=429).body(), 429)
        case "500":
            return reply(ApiError(TROUBLE, status=500, code="SERVER_ERROR").body(), 500)
        case "502_html":
            return Response(BAD_GATEWAY, 502, media_type="text/html")
        case "empty":
            return Response(b"", 500)
        case "message":
            return reply({"message": "no Route matched with those values"}, 404)
        case _:
            return None
