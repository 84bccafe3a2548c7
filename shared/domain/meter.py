"""What is counted: a meter turns an event into a reading, readings of a period into a quantity.

A definition is immutable; a change is the next version, from a future hour on. `value_path` leads into `data`
(dots go into objects: `usage.tokens`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, get_args

import msgspec

from shared.domain.errors import Rejected
from shared.domain.filter import MISSING, Filter, at
from shared.domain.identity import canonical

Aggregation = Literal["count", "sum", "min", "max", "avg", "latest", "unique_count", "weighted_sum"]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)
VALUELESS = frozenset(("count", "unique_count"))  # they add no numbers up

Late = Literal["next_invoice", "reject"]

BEGINNING = datetime.min.replace(tzinfo=UTC)
ZERO, ONE = Decimal(0), Decimal(1)
# NUMERIC(38,12) for prices; quantities keep what fits exactly beside it.
MAX_DIGITS = 38
MAX_SCALE = 18
MAX_WHOLE_DIGITS = 20
MAX_DIMENSION_CHARACTERS = 256
_LEAST, _MOST = -(2**63), 2**63  # far within MAX_WHOLE_DIGITS
# What Decimal would take besides ("1_000", digits of other scripts, "Infinity") is a slip of the sender.
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,4})?")


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What one event says to one meter.

    `dimensions`: canonical JSON of the group-by values, "" without any. `distinct`: 16-byte digest of what
    unique_count tells apart, empty for the others.
    """

    meter: Meter
    value: Decimal
    dimensions: str = ""
    distinct: bytes = b""


@dataclass(frozen=True)
class Meter:
    """One version of a meter. `unit` is the name people read on an invoice ("token").

    `clamp_min`, `clamp_max`: a value beyond is taken as that bound. `filters`: all must hold, else the event is none
    of this meter's. `group_by`: name -> path of each dimension. `late`: what becomes of a reading that comes after its
    month was sealed. `effective_from`: the first hour this version counts,
    None: the beginning of time.
    """

    id: str
    version: int
    name: str
    event_type: str
    aggregation: Aggregation
    value_path: str | None
    unit: str = "unit"
    billable: bool = True
    clamp_min: Decimal | None = None
    clamp_max: Decimal | None = None
    filters: tuple[Filter, ...] = ()
    group_by: tuple[tuple[str, str], ...] = ()
    late: Late = "next_invoice"
    effective_from: datetime | None = None
    effective_until: datetime | None = field(default=None, compare=False)  # where the next version begins

    def reading(self, data: Any) -> Reading | None:
        """What an event with this `data` says, None when a filter leaves it out. Raises Rejected (`bad_value`)."""
        if self.filters and not all(one.passes(data) for one in self.filters):
            return None
        dimensions = self._dimensions(data) if self.group_by else ""
        if self.aggregation in VALUELESS:
            return Reading(self, ONE, dimensions, self._distinct(data) if self.aggregation == "unique_count" else b"")
        return Reading(self, self.value(data), dimensions)

    def value(self, data: Any) -> Decimal:
        """The number at `value_path`, clamped. Raises Rejected (`bad_value`)."""
        found = self._found(data)
        # A whole number that is not too large, nearly always.
        number = Decimal(found) if type(found) is int and _LEAST < found < _MOST else _exact(found, self)
        if self.clamp_min is not None and number < self.clamp_min:
            return self.clamp_min
        if self.clamp_max is not None and number > self.clamp_max:
            return self.clamp_max
        return number

    def counts_at(self, hour: datetime) -> bool:
        """Whether this version counts events of the hour that starts there."""
        if self.effective_from is None and self.effective_until is None:  # nearly always
            return True
        return (self.effective_from is None or self.effective_from <= hour) and (
            self.effective_until is None or hour < self.effective_until
        )

    def _found(self, data: Any) -> Any:
        assert self.value_path is not None, "only count has none"
        if type(data) is dict and (found := data.get(self.value_path)) is not None and "." not in self.value_path:
            return found  # without a search, nearly always
        if (found := at(data, self.value_path)) is MISSING:
            raise _bad_value(self, ": it is missing")
        return found

    def _distinct(self, data: Any) -> bytes:
        value = self._found(data)
        if value is None or isinstance(value, dict | list):
            raise Rejected("bad_value", f"meter {self.id} needs a text, number or boolean at data.{self.value_path}")
        return hashlib.blake2b(canonical(value), digest_size=16).digest()

    def _dimensions(self, data: Any) -> str:
        found = {}
        for name, path in self.group_by:
            value = at(data, path)
            if value is MISSING:
                value = None
            elif isinstance(value, dict | list):
                raise Rejected("bad_value", f"meter {self.id} groups by data.{path}: it must be a text or a number")
            elif isinstance(value, str) and (len(value) > MAX_DIMENSION_CHARACTERS or "\0" in value):
                most = f"at most {MAX_DIMENSION_CHARACTERS} characters, none of them NUL"
                raise Rejected("bad_value", f"meter {self.id} groups by data.{path}: {most}")
            found[name] = value
        return canonical(found).decode()


def _exact(value: Any, meter: Meter) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        raise _bad_value(meter, f", not {type(value).__name__}")
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise _bad_value(meter, f", not the text {value[:40]!r}")
    number = Decimal(value)
    if not number:
        return ZERO  # whatever its exponent
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    # `adjusted`, because arithmetic with an exponent of millions overflows.
    if number.adjusted() >= MAX_WHOLE_DIGITS or -exponent > MAX_SCALE or len(digits) > MAX_DIGITS:
        raise _bad_value(meter, f" below 10^20 with at most {MAX_SCALE} decimals")
    return number


def _bad_value(meter: Meter, what: str) -> Rejected:
    return Rejected("bad_value", f"meter {meter.id} needs a number at data.{meter.value_path}{what}")


@dataclass(frozen=True, slots=True)
class MeterIndex:
    """Meters by event type, every version with the hours it counts; one event may feed several meters."""

    by_type: Mapping[str, tuple[Meter, ...]]
    changing: frozenset[str] = frozenset()  # types of meters that not every hour counts by
    rejecting: bool = False  # whether some meter takes nothing after the seal

    @classmethod
    def of(cls, meters: Iterable[Meter]) -> MeterIndex:
        by_type: dict[str, list[Meter]] = {}
        for meter in cls.versions(meters):
            by_type.setdefault(meter.event_type, []).append(meter)
        bounded = {
            event_type
            for event_type, found in by_type.items()
            if any(meter.effective_from or meter.effective_until for meter in found)
        }
        rejecting = any(meter.late == "reject" for found in by_type.values() for meter in found)
        return cls({event_type: tuple(found) for event_type, found in by_type.items()}, frozenset(bounded), rejecting)

    @staticmethod
    def versions(meters: Iterable[Meter]) -> list[Meter]:
        """Every version that counts some hour, with its end, in order of id and version."""
        by_id: dict[str, list[Meter]] = {}
        for meter in sorted(meters, key=lambda meter: (meter.id, meter.version)):
            by_id.setdefault(meter.id, []).append(meter)
        return [meter for versions in by_id.values() for meter in _with_ends(versions)]

    def of_type(self, event_type: str) -> tuple[Meter, ...]:
        """Raises Rejected (`unknown_event_type`) when no meter counts this type."""
        try:
            return self.by_type[event_type]
        except KeyError:
            raise Rejected("unknown_event_type", f"no meter counts events of type {event_type!r}") from None

    def readings(self, event_type: str, hour: datetime, data: Any) -> tuple[Reading, ...]:
        """What an event of this hour says to every meter that counts it. Raises Rejected (also `bad_value`)."""
        return readings(self.of_type(event_type), hour, data)


def readings(meters: Sequence[Meter], hour: datetime, data: Any) -> tuple[Reading, ...]:
    """What `data` of this hour says to those of `meters` that count it. Raises Rejected (`bad_value`)."""
    found = []
    for meter in meters:
        if meter.counts_at(hour) and (reading := meter.reading(data)) is not None:
            found.append(reading)
    return tuple(found)


def _with_ends(versions: list[Meter]) -> list[Meter]:
    """Each version ends where the next one begins."""
    ends = [later.effective_from or BEGINNING for later in versions[1:]]
    found = [_until(meter, end) for meter, end in zip(versions, [*ends, None], strict=True)]
    return [meter for meter in found if meter.effective_until != BEGINNING]


def _until(meter: Meter, end: datetime | None) -> Meter:
    if end == meter.effective_until:
        return meter
    values = {name: getattr(meter, name) for name in meter.__dataclass_fields__}
    return Meter(**values | {"effective_until": end})
