"""Which events a meter leaves out: a condition on one value inside `data`.

Texts, numbers and booleans are told apart: "1", 1 and true are three values. Numbers compare by what they are worth.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, get_args

from shared.domain.identity import canonical

Operator = Literal["in", "not_in", "exists", "missing", "at_least", "below"]
OPERATORS: tuple[Operator, ...] = get_args(Operator)
MISSING = object()


def at(data: Any, path: str) -> Any:
    """What stands at the path inside `data`, or MISSING."""
    value = data
    for step in path.split("."):
        if not isinstance(value, dict) or step not in value:
            return MISSING
        value = value[step]
    return value


@dataclass(frozen=True, slots=True)
class Filter:
    """`values` as `read_data` gives them: any number of scalars for in and not_in, one number for at_least and below.

    A value that is missing passes `missing` and `not_in`; a null is a value.
    """

    path: str
    operator: Operator
    values: tuple[Any, ...] = ()
    _wanted: frozenset[bytes] = field(init=False, repr=False)  # compared too: to Python 1 and true are equal

    def __post_init__(self) -> None:
        object.__setattr__(self, "_wanted", frozenset(canonical(value) for value in self.values))

    def passes(self, data: Any) -> bool:
        found = at(data, self.path)
        match self.operator:
            case "exists":
                return found is not MISSING
            case "missing":
                return found is MISSING
            case "in":
                return found is not MISSING and canonical(found) in self._wanted
            case "not_in":
                return found is MISSING or canonical(found) not in self._wanted
            case "at_least":
                return _is_number(found) and found >= self.values[0]
            case "below":
                return _is_number(found) and found < self.values[0]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)
