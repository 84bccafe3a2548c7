"""Wait a while, but no longer than until an event: how every loop sleeps that must stop at once when asked."""

from __future__ import annotations

import asyncio
import contextlib


async def pause(until: asyncio.Event, seconds: float) -> bool:
    """Whether the event is set now."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(until.wait(), seconds)
    return until.is_set()
