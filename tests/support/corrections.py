"""Corrections as a producer sends them."""

from __future__ import annotations

from typing import Any

from tests.support.usage import stamped


def void(id: str, target: str, *, source: str | None = None, reason: str | None = None, **more: Any) -> bytes:
    """Takes event `target` back; `source` is the target's, the correction's own where it is left out."""
    return _correction("khata.usage.void", id, target, source, reason, {}, more)


def amend(
    id: str, target: str, data: Any, *, source: str | None = None, reason: str | None = None, **more: Any
) -> bytes:
    """Gives event `target` other data."""
    return _correction("khata.usage.amend", id, target, source, reason, {"data": data}, more)


def _correction(
    type: str, id: str, target: str, source: str | None, reason: str | None, rest: dict[str, Any], more: dict[str, Any]
) -> bytes:
    said: dict[str, Any] = {"target": {"id": target} | ({"source": source} if source else {})} | rest
    if reason:
        said["reason"] = reason
    return stamped(id, data=said, type=type, **more)
