"""What is counted: a meter turns an event into a quantity.

Definitions are immutable; a change is the next version. `count` counts events, `sum` adds the value
found at `value_path` inside `data` (dots lead into objects: `usage.tokens`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from shared.domain.errors import Rejected

Aggregation = Literal["count", "sum"]

ZERO, ONE = Decimal(0), Decimal(1)
# NUMERIC(38,12) for prices; quantities keep what fits exactly beside it.
MAX_DIGITS = 38
MAX_SCALE = 18
MAX_WHOLE_DIGITS = 20
_BOUND = 10**MAX_WHOLE_DIGITS
# What Decimal would take besides ("1_000", digits of other scripts, "Infinity") is a slip of the sender.
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,4})?")


@dataclass(frozen=True, slots=True)
class Meter:
    """One version of a meter. `unit` is the name people read on an invoice ("token")."""

    id: str
    version: int
    name: str
    event_type: str
    aggregation: Aggregation
    value_path: str | None
    unit: str = "unit"
    billable: bool = True

    def quantity(self, data: Any) -> Decimal:
        """What one event with this `data` adds. Raises Rejected (`bad_value`)."""
        if self.aggregation == "count":
            return ONE
        assert self.value_path is not None
        value = data
        for step in self.value_path.split("."):
            if not isinstance(value, dict) or step not in value:
                raise Rejected("bad_value", f"meter {self.id} needs a number at data.{self.value_path}: it is missing")
            value = value[step]
        return _exact(value, self)


def _exact(value: Any, meter: Meter) -> Decimal:
    if type(value) is int and -_BOUND < value < _BOUND:  # nearly always
        return Decimal(value)
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
    """Meters by event type; one event may feed several."""

    by_type: Mapping[str, tuple[Meter, ...]]

    @classmethod
    def of(cls, meters: Iterable[Meter]) -> MeterIndex:
        """The newest version of each meter, by event type."""
        newest: dict[str, Meter] = {}
        for meter in meters:
            if meter.id not in newest or newest[meter.id].version < meter.version:
                newest[meter.id] = meter
        by_type: dict[str, list[Meter]] = {}
        for meter in sorted(newest.values(), key=lambda meter: meter.id):
            by_type.setdefault(meter.event_type, []).append(meter)
        return cls({event_type: tuple(found) for event_type, found in by_type.items()})

    def of_type(self, event_type: str) -> tuple[Meter, ...]:
        """Raises Rejected (`unknown_event_type`) when no meter counts this type."""
        try:
            return self.by_type[event_type]
        except KeyError:
            raise Rejected("unknown_event_type", f"no meter counts events of type {event_type!r}") from None
