"""What a meter would say of given events: the path of production, without its topics and tables. Pure.

Events are checked, told apart by identity (the first of equal ones stands), folded into local hours and added up to
the windows asked for, exactly as the aggregator and whoever reads usage do it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, localcontext
from zoneinfo import ZoneInfo

from shared.contracts.messages.event import StampedEvent, encode_event
from shared.domain.errors import Rejected
from shared.domain.meter import ZERO, Meter, MeterIndex
from shared.domain.period import Window, split
from shared.usage.event import EventReader, Metering, Owner, UsageEvent
from shared.usage.fold import fold
from shared.usage.parts import SUMS, Parts, Period, quantity

PROJECT = "simulated"


@dataclass(frozen=True, slots=True)
class Refused:
    """`index` of the event in the case, and why it is not counted: a code, and for people a text."""

    index: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Row:
    """One window, one combination of dimensions ("" without any). `quantity` None: min, max, avg, latest of nothing."""

    start: datetime
    end: datetime
    dimensions: str
    events: int
    quantity: Decimal | None


@dataclass(frozen=True, slots=True)
class Simulated:
    rows: tuple[Row, ...]
    rejected: tuple[Refused, ...]
    duplicates: int
    conflicts: int
    left_out: int  # by a filter, another type, another version's hour, or outside the period


def simulate(
    meter: Meter,
    events: Sequence[StampedEvent],
    start: datetime,
    end: datetime,
    window: Window,
    zone: ZoneInfo,
    *,
    level: Decimal = ZERO,
) -> Simulated:
    """`level`: what a weighted_sum carries into the period; earlier events add to it. Raises Usage (see `split`)."""
    windows = split(start, end, window, zone)
    metering = Metering({PROJECT: Owner(PROJECT, zone)}, MeterIndex.of([meter]))
    checked, rejected = _check(events, metering)
    fresh, duplicates, conflicts = _first_of_each(checked)
    inside = [event for event in fresh if start <= event.time < end]
    before = [event for event in fresh if event.time < start]
    starts = [first for first, _ in windows]
    totals: dict[tuple[str, int], Parts] = defaultdict(Parts)
    rows = []
    with localcontext(SUMS):
        for key, found in fold(inside).items():
            totals[key.dimensions, bisect_right(starts, key.hour) - 1].merge(found)
        levels = {name: level for name, _ in totals} if meter.group_by else {"": level}
        for event in before if meter.aggregation == "weighted_sum" else ():
            for reading in event.readings:
                levels[reading.dimensions] = levels.get(reading.dimensions, level) + reading.value
        for name, carried in sorted(levels.items()):
            for index, (first, last) in enumerate(windows):
                parts = totals[name, index]
                at = Period(first, last)
                rows.append(Row(first, last, name, parts.count, quantity(meter.aggregation, parts, at, level=carried)))
                carried += parts.sum
    counted = sum(bool(event.readings) for event in inside)
    return Simulated(tuple(rows), tuple(rejected), duplicates, conflicts, len(fresh) - counted)


def _check(events: Sequence[StampedEvent], metering: Metering) -> tuple[list[UsageEvent], list[Refused]]:
    checked, rejected = [], []
    reader = EventReader(metering)
    for index, event in enumerate(events):
        try:
            checked.append(reader.read(encode_event(event)))
        except Rejected as error:
            rejected.append(Refused(index, error.code, error.message))
    return checked, rejected


def _first_of_each(events: Sequence[UsageEvent]) -> tuple[list[UsageEvent], int, int]:
    """In order of arrival, as the aggregator claims identities."""
    standing: dict[bytes, UsageEvent] = {}
    duplicates = conflicts = 0
    for event in events:
        first = standing.setdefault(event.key, event)
        if first is not event:
            duplicates += first.fingerprint == event.fingerprint
            conflicts += first.fingerprint != event.fingerprint
    return list(standing.values()), duplicates, conflicts
