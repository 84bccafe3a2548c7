"""Read a body: never more of it in memory than the cap, and never more of all bodies than there is room for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request

from services.ingest.http.inflate import inflate
from shared.domain.errors import Rejected, Retryable

MAX_BODY_BYTES = 5 * 1024 * 1024
BODY_DEADLINE_S = 30.0
# Of all calls in flight together; decoded and encoded again, a byte of body takes about four.
MAX_HELD_BYTES = 128 * 1024 * 1024


class Room:
    """How many bytes of bodies the process may hold at once: many large calls at the same time must not end it."""

    def __init__(self, most: int = MAX_HELD_BYTES) -> None:
        self.left = most

    @contextmanager
    def enter(self) -> Iterator[Held]:
        held = Held(self)
        try:
            yield held
        finally:
            self.left += held.taken


class Held:
    """What one call holds of the room."""

    def __init__(self, room: Room) -> None:
        self._room, self.taken = room, 0

    def take(self, size: int) -> None:
        """Raises Retryable when there is no room now."""
        if size > self._room.left:
            raise Retryable("too many large calls at once: no room for another body")
        self._room.left -= size
        self.taken += size


async def read_body(request: Request, held: Held) -> bytes:
    """The body, inflated. Raises Rejected (`too_large`, `too_slow`, and what `inflate` raises), Retryable."""
    limit = Rejected("too_large", f"a body may have at most {MAX_BODY_BYTES} bytes; send several calls")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 15 or int(announced) > MAX_BODY_BYTES):
        raise limit  # before a byte of it is read
    coding = ",".join(request.headers.getlist("content-encoding")).strip().lower()
    if coding not in ("", "identity", "gzip", "x-gzip", "zstd"):
        inflate(b"", coding, 0)  # refused before a byte of it is read
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            async for chunk in request.stream():
                held.take(len(chunk))
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise limit
    except TimeoutError:
        raise Rejected("too_slow", f"the body did not come within {BODY_DEADLINE_S:g} s") from None
    if coding in ("", "identity"):
        return bytes(body)
    whole = inflate(bytes(body), coding, MAX_BODY_BYTES)
    held.take(len(whole))
    return whole
