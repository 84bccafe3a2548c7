"""Wait, but no longer than until an event: how every loop waits that must stop at once when asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any


async def pause(until: asyncio.Event, seconds: float) -> bool:
    """Whether the event is set now."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(until.wait(), seconds)
    return until.is_set()


async def first_of(
    *events: asyncio.Event, work: Sequence[asyncio.Future[Any]] = (), seconds: float | None = None
) -> None:
    """Until one of the events is set, one of the futures done, or the time over. Nothing of `work` is cancelled."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait([*waits, *work], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
