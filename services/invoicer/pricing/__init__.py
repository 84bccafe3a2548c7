"""What usage costs. Pure and exact: the major unit, unrounded, until `line_amount_minor` rounds the line once.

One file per model; `rate` is the door to all of them. Only the invoicer imports this.
"""

from services.invoicer.pricing.flat import Flat
from services.invoicer.pricing.model import Part, Priced, line_amount_minor
from services.invoicer.pricing.per_unit import PerUnit
from services.invoicer.pricing.rate import Price, parse_price, price_definition, rate

__all__ = [
    "Flat",
    "Part",
    "PerUnit",
    "Price",
    "Priced",
    "line_amount_minor",
    "parse_price",
    "price_definition",
    "rate",
]
