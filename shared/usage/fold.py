"""Fold fresh events into window deltas. Pure: same events in any order, same deltas."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import localcontext
from typing import Any, NamedTuple

from shared.usage.event import UsageEvent
from shared.usage.parts import SUMS, Parts


class WindowKey(NamedTuple):
    """One row of usage.window."""

    organisation_id: str
    project_id: str
    live: bool
    subject: str
    meter_id: str
    meter_version: int
    dimensions: str
    hour: datetime


def fold(events: Iterable[UsageEvent]) -> dict[WindowKey, Parts]:
    """What `events` add to windows, one entry per (meter version, dimensions, local hour) touched.

    Raises nothing: what a meter refuses was rejected before its identity was claimed.
    """
    deltas: dict[tuple[Any, ...], Parts] = {}
    with localcontext(SUMS):
        for event in events:
            stream, hour = event.stream, event.local_hour.start
            for reading in event.readings:
                meter = reading.meter
                key = (  # written out: this runs for every event
                    stream.organisation_id,
                    stream.project_id,
                    stream.live,
                    event.subject,
                    meter.id,
                    meter.version,
                    reading.dimensions,
                    hour,
                )
                parts = deltas.get(key)
                if parts is None:
                    parts = deltas[key] = Parts()
                parts.add(reading, event.key, event.time, event.id)
    return {WindowKey(*key): parts for key, parts in deltas.items()}
