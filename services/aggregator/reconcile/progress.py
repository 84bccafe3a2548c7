"""How far a run is, for whoever watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Stage(NamedTuple):
    """`done` of `total` of what `text` names; they only grow, and are equal at the end."""

    text: str
    done: int
    total: int


Progress = Callable[[Stage], None]


def nobody(stage: Stage) -> None:
    """Nobody watches."""
