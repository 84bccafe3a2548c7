"""Fold fresh events into window deltas. Pure: same events in any order, same deltas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, localcontext
from typing import NamedTuple

from shared.domain.identity import Fingerprint
from shared.domain.money import EXACT
from shared.usage.event import UsageEvent

ZERO = Decimal(0)


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


@dataclass(slots=True)
class WindowDelta:
    """What one batch adds to one window; merging it into the row is the same sums."""

    count: int = 0
    sum: Decimal = ZERO
    fingerprint: Fingerprint = Fingerprint()


def fold(events: Iterable[UsageEvent]) -> dict[WindowKey, WindowDelta]:
    """Window deltas of `events`, one per (meter version, dimensions, local hour) touched.

    Raises nothing: what a meter refuses was rejected before its identity was claimed.
    """
    deltas: dict[WindowKey, WindowDelta] = defaultdict(WindowDelta)
    with localcontext(EXACT):
        for event in events:
            for meter, quantity in event.quantities:
                delta = deltas[
                    WindowKey(
                        event.organisation_id,
                        event.project_id,
                        event.live,
                        event.subject,
                        meter.id,
                        meter.version,
                        "",
                        event.hour,
                    )
                ]
                delta.count += 1
                delta.sum += quantity
                delta.fingerprint = delta.fingerprint.with_key(event.key)
    return dict(deltas)
