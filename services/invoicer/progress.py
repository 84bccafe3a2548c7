"""What a long command tells while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """`done` of `total` in the stage's own unit (records, organisations); the text names it."""

    text: str
    done: int = 0
    total: int = 0


Progress = Callable[[Stage], None]


def silent(_: Stage) -> None:
    """For callers that do not watch."""
