"""Wait for a condition with a deadline; never sleep and hope."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(
    probe: Callable[[], Awaitable[T]], until: Callable[[T], bool] = bool, deadline_s: float = 20.0
) -> T:
    """The probe's first value that satisfies `until`; fails naming the last value seen."""
    end = time.monotonic() + deadline_s
    while True:
        value = await probe()
        if until(value):
            return value
        if time.monotonic() > end:
            raise AssertionError(f"still {value!r} after {deadline_s:g} s")
        await asyncio.sleep(0.05)
