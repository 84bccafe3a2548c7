"""One dead letter as a page for people. Pure; every text of a stranger passes through `safe`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from services.aggregator.dead_letters.text import as_text, lines, safe
from shared.contracts.headers import DLQ_PREFIX, Headers

# In the order in which somebody asks.
FIELDS = {
    "code": "code",
    "error": "error",
    "error_class": "error class",
    "failed_at": "failed at",
    "attempt": "attempt",
    "consumer_group": "group",
    "service": "service",
    "version": "version",
    "topic": "topic",
    "partition": "partition",
    "log_offset": "offset",
    "original_at": "first taken at",
    "project_id": "project",
    "organisation_id": "organisation",
    "event_at": "event at",
    "stored_at": "stored at",
    "decided_at": "decided at",
    "decided_by": "decided by",
    "reason": "reason",
    "redriven_partition": "redriven to partition",
    "redriven_offset": "redriven to offset",
}


def page(row: dict[str, Any], headers: Headers) -> Iterator[str]:
    """`row` has the columns of messaging.dead_letter."""
    yield f"dead letter {row['id']}, {row['state']}"
    yield from (f"  {remark}" for remark in _remarks(row))
    for name, label in FIELDS.items():
        if row[name] not in (None, ""):
            yield f"{label:22}{_shown(row[name])}"
    yield "headers"
    own = [(name, value) for name, value in headers if not name.startswith(DLQ_PREFIX)]
    yield from (f"  {safe(name)}: {_header(value)}" for name, value in own)
    if not own:
        yield "  (none of the record's own)"
    yield "key"
    yield from lines(row["key"])
    size = f", {len(row['value'])} bytes" if row["value"] is not None else ""
    yield f"value{size}"
    yield from lines(row["value"])


def _remarks(row: dict[str, Any]) -> Iterator[str]:
    if row["sending_since"] is not None:
        yield (
            f"a redrive by {safe(row['sending_by'])} began at {_shown(row['sending_since'])} and did not end: "
            "it may have been sent; redriving it again is harmless"
        )
    if row["truncated_from"] is not None:
        yield f"truncated: only the beginning of {row['truncated_from']} bytes was kept, so it cannot be redriven"
    if row["damaged"]:
        yield f"damaged: {safe(row['damaged'])}"
    if not row["origin_known"]:
        yield "the letter does not say where it failed: partition and offset are its own, in the dead-letter topic"


def _shown(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else safe(str(value))


def _header(value: bytes) -> str:
    text = as_text(value)
    return f"0x{value.hex()}" if text is None else safe(text)
