"""What every price model gives and takes.

Inside a calculation amounts are fractions: a price per 7 units has no last decimal, and tiers that sum to a
whole amount must sum to exactly that. They become a `Decimal` once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from shared.domain.errors import Rejected
from shared.domain.money import to_decimal, to_minor

WHOLE_MONTH = Fraction(1)

_DECIMALS = 12  # NUMERIC(38,12): what the database keeps of a price
_INTEGER_DIGITS = 26


@dataclass(frozen=True, slots=True)
class Part:
    """One step of a calculation, as the invoice's detail shows it: `quantity` at `unit_amount` per `per`."""

    quantity: Decimal
    unit_amount: Decimal
    per: Decimal
    exact: Fraction

    @property
    def amount(self) -> Decimal:
        """Major unit, unrounded."""
        return to_decimal(self.exact)


@dataclass(frozen=True, slots=True)
class Priced:
    """`amount` in the major unit, exact (a quotient without end to 60 digits), and the parts it is the sum of."""

    amount: Decimal
    breakdown: tuple[Part, ...]

    @classmethod
    def of(cls, parts: Iterable[Part]) -> Priced:
        breakdown = tuple(parts)
        return cls(to_decimal(sum((part.exact for part in breakdown), Fraction(0))), breakdown)


def line_amount_minor(priced: Priced, currency: str) -> int:
    """Minor units of a line: the only rounding between usage and subtotal, half-up away from zero."""
    return to_minor(priced.amount, currency)


def check_quantity(quantity: Decimal) -> None:
    """Raises `Rejected("invalid_quantity")` for a negative, infinite or NaN quantity.

    A negative sum of usage is a correction, which is billed by its own document and never by a negative line.
    """
    if not quantity.is_finite() or quantity < 0:
        raise Rejected("invalid_quantity", f"cannot price a quantity of {quantity}; it must be zero or more")


def check_price(name: str, value: Decimal, *, above_zero: bool = False) -> None:
    """Raises `Rejected("invalid_price")` for a parameter that is negative, infinite, or does not fit NUMERIC(38,12)."""
    if not value.is_finite() or value < 0 or (above_zero and value == 0):
        wanted = "above zero" if above_zero else "zero or more"
        raise Rejected("invalid_price", f"{name} is {value}; it must be {wanted}")
    exponent = value.as_tuple().exponent
    if value.adjusted() >= _INTEGER_DIGITS or (isinstance(exponent, int) and exponent < -_DECIMALS):
        raise Rejected(
            "invalid_price", f"{name} is {value}; write up to {_INTEGER_DIGITS} digits and {_DECIMALS} decimals"
        )
