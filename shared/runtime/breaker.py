"""A circuit breaker: after a failure do not wait for the next one.

closed ──failure──▶ open ──after a pause──▶ half-open: one caller tries, the others are told no
   ▲                                             │ success ──▶ closed
   └─────────────────────────────────────────────┘ failure ──▶ open, a longer pause
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Breaker:
    """`first_pause_s` doubles with each failure up to `most_pause_s`; `clock` is monotonic seconds."""

    first_pause_s: float = 0.5
    most_pause_s: float = 10.0
    clock: Callable[[], float] = time.monotonic
    _pause_s: float = field(default=0.0, init=False)
    _open_until: float | None = field(default=None, init=False)
    _trying: bool = field(default=False, init=False)

    @property
    def closed(self) -> bool:
        return self._open_until is None

    def allows(self) -> bool:
        """Whether this caller may try. A caller that was allowed must tell `success` or `failure`."""
        if self._open_until is None:
            return True
        if self._trying or self.clock() < self._open_until:
            return False
        self._trying = True
        return True

    def success(self) -> None:
        self._pause_s, self._open_until, self._trying = 0.0, None, False

    def failure(self) -> None:
        self._pause_s = min(self.most_pause_s, self._pause_s * 2 or self.first_pause_s)
        self._open_until, self._trying = self.clock() + self._pause_s, False
