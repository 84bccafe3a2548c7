"""Corrections as a producer sends them."""

from __future__ import annotations

from typing import Any

from services.aggregator.corrections.dirty import clean_some
from tests.support.usage import TOPIC, Counting, stamped


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


async def clean(count: Counting, topic: str = TOPIC) -> int:
    """Look again at every dirty window, as the aggregator's keeper does; how many are clean now."""
    total = skip = 0
    while (done := await clean_some(count.database, topic, count.aggregator.group, skip)) is not None:
        total += done.clean
        skip += done.again + done.differ
    return total


async def told(count: Counting) -> list[tuple[str, str, str | None, str | None]]:
    """(id, state, applied as, code) of each correction, in order of the log."""
    return await count.rows(
        "SELECT event_id, state, applied_as, code FROM usage.correction ORDER BY partition, log_offset"
    )


async def dirty(count: Counting) -> int:
    [(number,)] = await count.rows("SELECT count(*) FROM usage.dirty_window WHERE cleaned < marks")
    return int(number)


async def signed(count: Counting, meter: str = "tokens") -> list[tuple[str, int, int]]:
    """(kind, sign, value) of the adjustments that stand, in order."""
    return [
        (kind, sign, int(value))
        for kind, sign, value in await count.rows(
            "SELECT kind, sign, value FROM usage.adjustment WHERE taken_back_by IS NULL AND meter_id = %s ORDER BY id",
            meter,
        )
    ]
