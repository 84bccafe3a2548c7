"""The seam for rate limits: who limits keys gives the door something that answers for each call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from services.ingest.validate import Sender
from shared.domain.errors import Retryable


class Allowance(msgspec.Struct, frozen=True):
    """`retry_after_s` None: the call may pass; else how many seconds to wait. `headers` tells what goes on the answer;
    asked once, when there is one."""

    retry_after_s: float | None = None
    headers: Callable[[], Mapping[str, str]] = dict


class Throttled(Retryable):
    """The same call may pass after so many seconds."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"wait {retry_after_s:g} s")
        self.retry_after_s = retry_after_s


class Limits(Protocol):
    """Whole calls pass or wait, never a part of one."""

    def take(self, sender: Sender, events: int) -> Allowance:
        """Raises Rejected for a call that could never pass, however long it waits."""

    def look(self, sender: Sender) -> Allowance:
        """As `take` of one event, but takes nothing."""
