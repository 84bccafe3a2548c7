"""Windows of one series, hour after hour."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from services.aggregator.watch.hours_state import Series
from shared.contracts.messages.window import WindowMessage

START = datetime(2026, 11, 2, 18, 30, tzinfo=UTC)
SERIES = Series("acme-app", "alice", "tokens", 1, "")
HOUR = timedelta(hours=1)


def window(
    number: int, count: int, quantity: str | None = None, *, start: datetime = START, **more: Any
) -> WindowMessage:
    """The series' hour `number` after the start, as told 50 minutes into it."""
    values: dict[str, Any] = {
        "organisation_id": "acme",
        "project_id": SERIES.project_id,
        "live": True,
        "subject": SERIES.subject,
        "meter_id": SERIES.meter_id,
        "meter_version": 1,
        "hour": start + number * HOUR,
        "revision": 1,
        "updated_at": start + number * HOUR + timedelta(minutes=50),
        "aggregation": "sum",
        "billable": True,
        "count": count,
        "sum": quantity or str(count * 10),
        "fingerprint": (1, 1),
        "quantity": quantity or str(count * 10),
    } | more
    return WindowMessage(**values)
