"""How an answer leaves: in Razorpay's JSON, or not at all."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.payments.sandbox.webhooks import encode


def reply(document: Any, status: int = 200) -> Response:
    """A JSON answer with the same escapes as the webhooks."""
    return Response(encode(document), status, media_type="application/json")


class TransportInState(HttpToolsProtocol):
    """Uvicorn's protocol, with the connection's transport in the request's state, so that it can be cut."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called once per connection; the state given here is copied into each request's scope."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class Dropped(Response):
    """No answer: the connection is cut, and the caller cannot know what became of its request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Cut the connection and wait until the server has seen it, so that it does not answer 500 itself."""
        transport: asyncio.Transport = scope["state"]["transport"]
        transport.abort()
        while (await receive())["type"] != "http.disconnect":
            continue
