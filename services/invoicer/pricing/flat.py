"""Flat price: a fixed amount for a month, whatever is used."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from services.invoicer.pricing.model import WHOLE_MONTH, Part, Priced, check_price, check_quantity

ONE = Decimal(1)


@dataclass(frozen=True, slots=True)
class Flat:
    """`unit_amount` (major unit) for a whole month of one subscribed item. Raises `Rejected("invalid_price")`."""

    unit_amount: Decimal

    def __post_init__(self) -> None:
        check_price("unit_amount", self.unit_amount)


def amount(price: Flat, quantity: Decimal, share: Fraction = WHOLE_MONTH) -> Priced:
    """`quantity` items for `share` of the month: 31 days at 1000.00, of which 15 are priced, cost 15/31 of it.

    Raises `Rejected("invalid_quantity")`, and ValueError for a share outside 0 to 1.
    """
    check_quantity(quantity)
    if not 0 <= share <= 1:
        raise ValueError(f"{share} is no share of a month")
    exact = Fraction(quantity) * Fraction(price.unit_amount) * share
    return Priced.of([Part(quantity, price.unit_amount, ONE, exact)])
