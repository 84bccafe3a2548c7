"""The door to every price model: which ones there are, how they are stored, what a quantity costs."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import assert_never

from services.invoicer.pricing import flat, per_unit
from services.invoicer.pricing.flat import Flat
from services.invoicer.pricing.model import WHOLE_MONTH, Priced
from services.invoicer.pricing.per_unit import PerUnit
from shared.domain.errors import Rejected

Price = PerUnit | Flat


def rate(price: Price, quantity: Decimal, share: Fraction = WHOLE_MONTH) -> Priced:
    """What `quantity` costs at `price`: the exact amount in the major unit and its breakdown.

    `share` is the part of the month that the price holds for (`FrozenLine.share`); it matters only to what is
    charged by time: the quantity is already that of the piece. Raises `Rejected("invalid_quantity")`.
    """
    match price:
        case PerUnit():
            return per_unit.amount(price, quantity)
        case Flat():
            return flat.amount(price, quantity, share)
        case _:
            assert_never(price)


def parse_price(model: str, definition: Mapping[str, object]) -> Price:
    """The price stored as `model` ("per_unit", "flat") and `definition`, whose amounts are decimal text.

    Raises `Rejected("invalid_price")` for an unknown model, a parameter missing, unknown or no decimal text.
    """
    match model:
        case "per_unit":
            numbers = _decimals(definition, required={"unit_amount"}, optional={"per"})
            return PerUnit(numbers["unit_amount"], numbers.get("per", per_unit.ONE))
        case "flat":
            return Flat(_decimals(definition, required={"unit_amount"})["unit_amount"])
        case _:
            raise Rejected("invalid_price", f"{model!r} is not a price model; use per_unit or flat")


def price_definition(price: Price) -> tuple[str, dict[str, str]]:
    """(model, definition) as `billing.price` stores them; `parse_price` reads them back equal."""
    match price:
        case PerUnit():
            return "per_unit", {"unit_amount": f"{price.unit_amount:f}", "per": f"{price.per:f}"}
        case Flat():
            return "flat", {"unit_amount": f"{price.unit_amount:f}"}
        case _:
            assert_never(price)


def _decimals(
    definition: Mapping[str, object], required: set[str], optional: frozenset[str] | set[str] = frozenset()
) -> dict[str, Decimal]:
    if missing := required - definition.keys():
        raise Rejected("invalid_price", f"the price lacks {', '.join(sorted(missing))}")
    if unknown := definition.keys() - required - optional:
        raise Rejected("invalid_price", f"the price has unknown parameters: {', '.join(sorted(unknown))}")
    return {name: _decimal(name, value) for name, value in definition.items()}


def _decimal(name: str, value: object) -> Decimal:
    # A JSON number may have been a float on its way; text is exactly what was typed.
    if not isinstance(value, str):
        raise Rejected("invalid_price", f'{name} must be decimal text, like "250.00", not {value!r}')
    try:
        return Decimal(value)
    except InvalidOperation:
        raise Rejected("invalid_price", f'{name} is {value!r}; write a decimal, like "250.00"') from None
