"""Fold fresh events into window deltas. Pure: same events in any order, same deltas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import localcontext
from typing import Any, NamedTuple

import numpy as np

from shared.domain.identity import Fingerprint
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
    places: dict[tuple[Any, ...], int] = {}
    found: list[Parts] = []
    # Of every reading: its window, and the identity it comes from.
    windows: list[int] = []
    identities: list[bytes] = []
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
                place = places.get(key)
                if place is None:
                    place = places[key] = len(found)
                    found.append(Parts())
                windows.append(place)
                identities.append(event.key)
                found[place].add_value(reading, event.time, event.id)
    _count(found, windows, identities)
    return {WindowKey(*key): found[place] for key, place in places.items()}


def _count(found: Sequence[Parts], windows: Sequence[int], identities: Sequence[bytes]) -> None:
    """Counts and fingerprints of all windows at once: what `Parts.add` does one by one costs 0.5 us more an event."""
    hashes = np.frombuffer(b"".join(identities), ">u4").reshape(-1, 4)[:, :2].astype(np.int64)
    sums = np.zeros((len(found), 2), np.int64)
    np.add.at(sums, np.array(windows, np.intp), hashes)
    counts = np.bincount(windows, minlength=len(found)) if windows else ()
    for parts, count, halves in zip(found, counts, sums.tolist(), strict=True):
        parts.count, parts.fingerprint = int(count), Fingerprint(*halves)
