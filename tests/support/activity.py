"""Key activity to plant, and what the detectors make of it when its minutes alone drive the time."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from services.aggregator.watch import detect
from services.aggregator.watch.state import KeyState
from shared.contracts.messages.activity import KeyActivity
from shared.contracts.messages.anomaly import Anomaly

START = datetime(2026, 11, 2, 4, 0, tzinfo=UTC)
KEY = "0123456789abcdef"
HOME = ("p1.0123456789abcdef",)


def minute(number: int, events: int = 100, *, start: datetime = START, **more: Any) -> KeyActivity:
    """What one process tells of the key's minute `number` after the start."""
    values: dict[str, Any] = {
        "key_id": KEY,
        "process_id": "ingest-1",
        "project_id": "acme-app",
        "organisation_id": "acme",
        "calls": 10,
        "accepted": events,
        "addresses": HOME,
    } | more
    return KeyActivity(minute=start + timedelta(minutes=number), address_count=len(values["addresses"]), **values)


def steady(minutes: int = 60, events: int = 100, *, first: int = 0, **more: Any) -> list[KeyActivity]:
    return [minute(number, events, **more) for number in range(first, first + minutes)]


def play(records: Iterable[KeyActivity], idle_minutes: int = 0) -> list[Anomaly]:
    """Findings of one key: each record comes when its minute is over, then nothing for a while."""
    state, found, now_s = KeyState(), list[Anomaly](), 0.0
    for record in records:
        now_s = max(now_s, record.minute.timestamp() + 60)
        state, ended = detect.advance(state, record.key_id, record.minute.timestamp())
        state, observed = detect.observe(state, record)
        state, advanced = detect.advance(state, record.key_id, now_s)
        found += ended + observed + advanced
    for _ in range(idle_minutes * 12):
        now_s += 5
        state, advanced = detect.advance(state, KEY, now_s)
        found += advanced
    return found
