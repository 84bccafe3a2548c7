"""Per unit price: every unit costs the same, quoted for a round number of them (250.00 per 1,000,000 tokens)."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from services.invoicer.pricing.model import Part, Priced, check_price, check_quantity

ONE = Decimal(1)


@dataclass(frozen=True, slots=True)
class PerUnit:
    """`unit_amount` (major unit) for each `per` units; a part of `per` costs its part. `Rejected("invalid_price")`."""

    unit_amount: Decimal
    per: Decimal = ONE

    def __post_init__(self) -> None:
        check_price("unit_amount", self.unit_amount)
        check_price("per", self.per, above_zero=True)


def amount(price: PerUnit, quantity: Decimal) -> Priced:
    """`quantity` x `unit_amount` / `per`. Raises `Rejected("invalid_quantity")`; zero usage is a zero line."""
    check_quantity(quantity)
    exact = Fraction(quantity) * Fraction(price.unit_amount) / Fraction(price.per)
    return Priced.of([Part(quantity, price.unit_amount, price.per, exact)])
