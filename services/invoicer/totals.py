"""From lines to the amount owed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.invoicer.tax.gst import TaxResult


@dataclass(frozen=True, slots=True)
class Totals:
    """Minor units; ValueError unless total = subtotal - discount + tax, which the table checks as well."""

    subtotal_minor: int
    discount_minor: int
    tax_minor: int
    total_minor: int

    def __post_init__(self) -> None:
        owed = self.subtotal_minor - self.discount_minor + self.tax_minor
        if self.total_minor != owed:
            raise ValueError(f"total is {self.total_minor}, but subtotal - discount + tax is {owed}")
        if not 0 <= self.discount_minor <= self.subtotal_minor:
            raise ValueError(f"a discount of {self.discount_minor} does not fit a subtotal of {self.subtotal_minor}")

    @property
    def taxable_minor(self) -> int:
        return self.subtotal_minor - self.discount_minor


def total(lines: Iterable[int], discount_minor: int = 0, tax: TaxResult | None = None) -> Totals:
    """Totals of line amounts (minor units, each already rounded); `tax` None where no tax applies.

    Raises ValueError when the tax was computed on another taxable value than subtotal - discount: a line that
    fell out of its rate group would otherwise go untaxed without a word.
    """
    subtotal_minor = sum(lines)
    tax_minor = tax.total_minor if tax else 0
    totals = Totals(subtotal_minor, discount_minor, tax_minor, subtotal_minor - discount_minor + tax_minor)
    if tax and tax.taxable_minor != totals.taxable_minor:
        raise ValueError(f"tax was computed on {tax.taxable_minor}, but {totals.taxable_minor} is taxable")
    return totals
