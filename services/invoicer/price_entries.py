"""The `seller` and `prices` sections of a catalogue file. pydantic, because this is a door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from services.invoicer.pricing import Flat, PerUnit, Price
from services.invoicer.tax.gstin import parse_gstin
from services.invoicer.tax.rates import RATES
from shared.catalogue.file import Id
from shared.catalogue.meter_entry import MeterId
from shared.domain.errors import Rejected, Usage
from shared.domain.money import exponent
from shared.runtime.documents import problems

DEFAULT_SAC = "998315"
# CGST Rule 46(b): 16 characters in all; `KH/26-27/000001` leaves three for the series.
SERIES = r"^[A-Z1-9][A-Z0-9]{0,2}$"


def _exact(value: object) -> object:
    """Text or whole numbers only: a float has lost the digits that were typed."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError('must be a decimal in quotes, like "250.00"')  # noqa: TRY004 pydantic wants it
    try:
        return Decimal(value)
    except InvalidOperation:
        raise ValueError(f'{value!r} is not a decimal; write it like "250.00"') from None


Amount = Annotated[Decimal, BeforeValidator(_exact)]
Text = Annotated[str, Field(min_length=1, max_length=200)]


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class SellerEntry(Entry):
    """Who issues the invoices: one GST registration, one series of numbers."""

    name: Text
    gstin: str
    address: Text
    series: Annotated[str, Field(pattern=SERIES)] = "KH"

    @field_validator("gstin")
    @classmethod
    def _registered(cls, value: str) -> str:
        try:
            return parse_gstin(value).text
        except Rejected as error:
            raise ValueError(error.message) from None


class PerUnitEntry(Entry):
    """`amount` (major unit) for each `per` units."""

    amount: Amount
    per: Amount = Decimal(1)


class MonthlyEntry(Entry):
    """`amount` (major unit) for a whole month."""

    amount: Amount


class PriceEntry(Entry):
    """One version of a price: of a `meter` per unit, or a `flat` one by the month; without organisation the default."""

    meter: MeterId | None = None
    flat: MeterId | None = None
    organisation: Id | None = None
    valid_from: date = date(2000, 1, 1)
    currency: str = "INR"
    per_unit: PerUnitEntry | None = None
    monthly: MonthlyEntry | None = None
    description: Text
    sac: str = DEFAULT_SAC

    @field_validator("currency")
    @classmethod
    def _currency_exists(cls, value: str) -> str:
        try:
            exponent(value)
        except Rejected as error:
            raise ValueError(error.message) from None
        return value

    @field_validator("sac")
    @classmethod
    def _has_a_rate(cls, value: str) -> str:
        known = sorted({rate.sac for rate in RATES})
        if value not in known:
            raise ValueError(f"no GST rate is known for SAC {value}; known are {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> PriceEntry:
        if (self.meter is None) == (self.flat is None):
            raise ValueError("give either meter or flat")
        if (self.meter is None) != (self.per_unit is None) or (self.flat is None) != (self.monthly is None):
            raise ValueError("a meter has a per_unit price, a flat item a monthly one")
        try:
            self.price()
        except Rejected as error:
            raise ValueError(error.message) from None
        return self

    @property
    def item(self) -> str:
        return f"meter:{self.meter}" if self.meter is not None else f"flat:{self.flat}"

    def price(self) -> Price:
        """Raises `Rejected("invalid_price")`, for example for a negative amount."""
        if self.per_unit is not None:
            return PerUnit(self.per_unit.amount, self.per_unit.per)
        assert self.monthly is not None
        return Flat(self.monthly.amount)


class PriceFile(Entry):
    """Both sections, checked as far as they can be without the database."""

    seller: SellerEntry | None = None
    prices: tuple[PriceEntry, ...] = ()

    @model_validator(mode="after")
    def _versions_once(self) -> PriceFile:
        seen: dict[tuple[str, str | None, date], int] = {}
        for number, price in enumerate(self.prices):
            version = (price.item, price.organisation, price.valid_from)
            if version in seen:
                raise ValueError(f"prices.{number} has the same item, organisation and day as prices.{seen[version]}")
            seen[version] = number
        return self


def parse_prices(
    seller: Mapping[str, Any] | None, prices: Sequence[Mapping[str, Any]], name: str = "catalogue file"
) -> PriceFile:
    """Raises Usage with every mistake and where it stands in the file."""
    try:
        return PriceFile.model_validate({"seller": seller, "prices": list(prices)})
    except ValidationError as error:
        raise Usage(problems(error, name)) from None
