"""What is kept of the readings of a window: parts that add up, in any order and grouping, to every aggregation."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_05UP, ROUND_HALF_EVEN, Context, Decimal, Inexact, localcontext

from shared.domain.identity import Fingerprint
from shared.domain.meter import ZERO, Aggregation, Reading
from shared.domain.money import EXACT

# A value has up to 38 digits, a moment 16 more, and each power of ten of events one more: none may be lost.
_TRAPS = [flag for flag, trapped in EXACT.traps.items() if trapped]
SUMS = Context(prec=150, traps=_TRAPS)
DIVISION_PLACES = Decimal("1e-12")  # avg and weighted_sum, which divide: half to even; all others are exact
# ROUND_05UP keeps a quotient off every tie that it is not on, so that rounding it again is rounding it once.
_QUOTIENT = Context(prec=150, rounding=ROUND_05UP, traps=[flag for flag in _TRAPS if flag is not Inexact])
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Latest = tuple[datetime, str, Decimal]
"""Time, id and value of an event; the largest wins, so that equal times have one winner whatever came first."""


@dataclass(slots=True)
class Parts:
    """Of a set of events. `minimum`, `maximum`, `latest`, `moment`, `distinct` only where the meter needs them.

    `moment`: sum of value times microseconds since 1970, for weighted_sum. `distinct`: how many events had each value,
    by its digest; what was read from windows has none (see `unique`).
    """

    count: int = 0
    sum: Decimal = ZERO
    fingerprint: Fingerprint = Fingerprint()
    minimum: Decimal | None = None
    maximum: Decimal | None = None
    latest: Latest | None = None
    moment: Decimal | None = None
    distinct: dict[bytes, int] | None = None

    def add(self, reading: Reading, key: bytes, time: datetime, id: str) -> None:
        """One more event; the caller's decimal context must be SUMS."""
        self.count += 1
        self.fingerprint = self.fingerprint.with_key(key)
        self.add_value(reading, time, id)

    def add_value(self, reading: Reading, time: datetime, id: str) -> None:
        """`add` without the count and the fingerprint, for whoever adds those up for many events at once."""
        value = reading.value
        self.sum += value
        match reading.meter.aggregation:
            case "sum" | "count":  # nearly always
                return
            case "min":
                self.minimum = value if self.minimum is None else min(self.minimum, value)
            case "max":
                self.maximum = value if self.maximum is None else max(self.maximum, value)
            case "latest":
                self.latest = _later(self.latest, (time, id, value))
            case "weighted_sum":
                self.moment = (self.moment or ZERO) + value * microseconds(time)
            case "unique_count":
                self.distinct = self.distinct or {}
                self.distinct[reading.distinct] = self.distinct.get(reading.distinct, 0) + 1

    def remove(self, reading: Reading, key: bytes, time: datetime) -> None:
        """One event less, exactly; the caller's decimal context must be SUMS.

        `minimum`, `maximum` and `latest` stay: what was second is not known here, so their windows are looked at again.
        """
        value, aggregation = reading.value, reading.meter.aggregation
        self.count -= 1
        self.sum -= value
        self.fingerprint = self.fingerprint.without_key(key)
        if aggregation == "weighted_sum":
            self.moment = (self.moment or ZERO) - value * microseconds(time)
        elif aggregation == "unique_count":
            self.distinct = self.distinct or {}
            self.distinct[reading.distinct] = self.distinct.get(reading.distinct, 0) - 1

    def merge(self, other: Parts) -> None:
        """The union with a set that shares no event with this one; the caller's context must be SUMS."""
        self.count += other.count
        self.sum += other.sum
        self.fingerprint += other.fingerprint
        if other.minimum is not None:
            self.minimum = other.minimum if self.minimum is None else min(self.minimum, other.minimum)
        if other.maximum is not None:
            self.maximum = other.maximum if self.maximum is None else max(self.maximum, other.maximum)
        if other.latest is not None:
            self.latest = _later(self.latest, other.latest)
        if other.moment is not None:
            self.moment = (self.moment or ZERO) + other.moment
        if other.distinct is not None:
            self.distinct = dict(self.distinct or {})
            for digest, count in other.distinct.items():
                self.distinct[digest] = self.distinct.get(digest, 0) + count


@dataclass(frozen=True, slots=True)
class Period:
    """[start, end) of a quantity. weighted_sum is an average over `of`: for part of a month, the whole month."""

    start: datetime
    end: datetime
    of: timedelta | None = None


def quantity(
    aggregation: Aggregation, parts: Parts, period: Period, *, level: Decimal = ZERO, unique: int | None = None
) -> Decimal | None:
    """The quantity of a period. None: min, max, avg and latest of nothing. It may be negative.

    `level`: for weighted_sum, what all deltas before the period add up to. `unique`: how many distinct values there
    are, where `parts` does not hold them.
    """
    with localcontext(SUMS):
        match aggregation:
            case "count":
                return Decimal(parts.count)
            case "sum":
                return parts.sum
            case "min":
                return parts.minimum
            case "max":
                return parts.maximum
            case "latest":
                return None if parts.latest is None else parts.latest[2]
            case "avg":
                return _divided(parts.sum, parts.count) if parts.count else None
            case "unique_count":
                return Decimal(len(parts.distinct or ()) if unique is None else unique)
            case "weighted_sum":
                end = microseconds(period.end)
                area = level * (end - microseconds(period.start)) + parts.sum * end - (parts.moment or ZERO)
                whole = period.of or period.end - period.start
                return _divided(area, whole // _MICROSECOND)


def microseconds(instant: datetime) -> int:
    """Since 1970."""
    return (instant - _EPOCH) // _MICROSECOND


def _later(one: Latest | None, other: Latest) -> Latest:
    return other if one is None or other > one else one


def _divided(value: Decimal, by: int) -> Decimal:
    with localcontext(_QUOTIENT):
        rounded = (value / by).quantize(DIVISION_PLACES, ROUND_HALF_EVEN)
        return rounded.normalize() + ZERO
