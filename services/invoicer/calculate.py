"""From frozen terms and usage to the document of an invoice. Pure: draft and verify both call it.

`Terms` is everything that is frozen when an invoice is drafted: parties, period, cut, meters, and per line the
price that holds on its days. `used` is how much was used. The same of both gives the same bytes for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from services.invoicer.document import Document, exact_text
from services.invoicer.pricing import line_amount_minor, parse_price, rate
from services.invoicer.tax import gst
from services.invoicer.tax.gstin import parse_gstin
from services.invoicer.tax.words import rupees_in_words
from services.invoicer.totals import total
from shared.domain.errors import NeedsPerson
from shared.domain.identity import Fingerprint
from shared.domain.money import to_stored
from shared.domain.period import Month

ONE = Decimal(1)
AMOUNT_DIGITS = 14
"""A line stays below 10^14 of the major unit, so that sums of lines and tax stay far inside a bigint of minor units."""


class Used(NamedTuple):
    """Usage behind a line: the quantity, how many events it comes from, and their fingerprint."""

    quantity: Decimal
    events: int
    fingerprint: Fingerprint


NOTHING = Used(Decimal(0), 0, Fingerprint())


class LineKey(NamedTuple):
    """What a line is for: an item (`meter:<id>`, `flat:<name>`) on local days, both inclusive."""

    item: str
    meter_version: int | None
    first_day: date
    last_day: date


@dataclass(frozen=True, slots=True)
class Charge:
    """The price of a line as stored (`billing.price`), and the whole GST rate of its SAC in percent."""

    price_id: int
    model: str
    definition: Mapping[str, str]
    sac: str
    gst_rate: Decimal


@dataclass(frozen=True, slots=True)
class FrozenLine:
    """A line before its quantity is known. `charge` None: informational, no supply and no amount."""

    key: LineKey
    description: str
    unit: str
    charge: Charge | None

    @property
    def share(self) -> Fraction:
        """Its part of the month, by days: matters to what is charged by time."""
        days = (self.key.last_day - self.key.first_day).days + 1
        return Fraction(days, Month(self.key.first_day.year, self.key.first_day.month).days)


@dataclass(frozen=True, slots=True)
class Terms:
    """`header` holds the sections that no calculation changes, as they stand in the document."""

    header: Mapping[str, Any]
    lines: Sequence[FrozenLine]

    @property
    def currency(self) -> str:
        return str(self.header["currency"])


def calculate(terms: Terms, used: Mapping[LineKey, Used]) -> Document:
    """The document of a draft: header, lines, informational lines, tax, totals, amount in words.

    A meter's line without usage in `used` is a line over zero. Raises NeedsPerson and Rejected as pricing and
    tax do, and `NeedsPerson("arithmetic")` when the totals do not add up.
    """
    billable = [line for line in terms.lines if line.charge is not None]
    lines = [_billable(n, line, terms.currency, used) for n, line in enumerate(billable, start=1)]
    informational = [_common(line, used) for line in terms.lines if line.charge is None]

    taxable: dict[Decimal, int] = {}
    for line, priced in zip(billable, lines, strict=True):
        assert line.charge is not None
        taxable[line.charge.gst_rate] = taxable.get(line.charge.gst_rate, 0) + priced["amount_minor"]
    tax = gst.tax(_seller(terms), _customer(terms), taxable)
    try:
        totals = total([line["amount_minor"] for line in lines], 0, tax)
    except ValueError as error:
        raise NeedsPerson("arithmetic", str(error)) from None

    return {
        **terms.header,
        "number": None,
        "issued_on": None,
        "lines": lines,
        "informational": informational,
        "discounts": [],
        "place_of_supply": {"code": tax.place_of_supply.code, "name": tax.place_of_supply.name},
        "supply_type": tax.supply_type.value,
        "reverse_charge": False,
        "tax": [
            {
                "head": component.head.value,
                "rate": exact_text(component.rate),
                "taxable_minor": component.taxable_minor,
                "amount_minor": component.amount_minor,
            }
            for component in tax.components
        ],
        "totals": {
            "subtotal_minor": totals.subtotal_minor,
            "discount_minor": totals.discount_minor,
            "taxable_minor": totals.taxable_minor,
            "tax_minor": totals.tax_minor,
            "total_minor": totals.total_minor,
        },
        "amount_in_words": rupees_in_words(totals.total_minor) if terms.currency == "INR" else None,
    }


def terms_of(document: Document) -> Terms:
    """The frozen terms that a document was calculated from: the inverse of `calculate`, less the quantities."""
    calculated = {
        "number",
        "issued_on",
        "lines",
        "informational",
        "discounts",
        "place_of_supply",
        "supply_type",
        "reverse_charge",
        "tax",
        "totals",
        "amount_in_words",
    }
    header = {name: section for name, section in document.items() if name not in calculated}
    return Terms(header, [_frozen(line) for line in [*document["lines"], *document["informational"]]])


def _billable(position: int, line: FrozenLine, currency: str, used: Mapping[LineKey, Used]) -> Document:
    assert line.charge is not None
    charge = line.charge
    quantity = used.get(line.key, NOTHING).quantity if line.key.meter_version is not None else ONE
    priced = rate(parse_price(charge.model, charge.definition), quantity, line.share)
    if priced.amount.adjusted() >= AMOUNT_DIGITS:
        raise NeedsPerson("arithmetic", f"{line.key.item} comes to {priced.amount:E}, which no invoice can say")
    return _common(line, used) | {
        "position": position,
        "sac": charge.sac,
        "gst_rate": exact_text(charge.gst_rate),
        "price": {"id": charge.price_id, "model": charge.model, "definition": dict(charge.definition)},
        "exact_amount": f"{to_stored(priced.amount):f}",
        "amount_minor": line_amount_minor(priced, currency),
    }


def _common(line: FrozenLine, used: Mapping[LineKey, Used]) -> Document:
    usage = used.get(line.key, NOTHING) if line.key.meter_version is not None else None
    return {
        "item": line.key.item,
        "meter_version": line.key.meter_version,
        "description": line.description,
        "first_day": line.key.first_day.isoformat(),
        "last_day": line.key.last_day.isoformat(),
        "unit": line.unit,
        "quantity": exact_text(ONE if usage is None else usage.quantity),
        "billable": line.charge is not None,
        "usage": None
        if usage is None
        else {
            "events": usage.events,
            "fingerprint_high": usage.fingerprint.high,
            "fingerprint_low": usage.fingerprint.low,
        },
    }


def _frozen(line: Document) -> FrozenLine:
    charge = None
    if line["billable"]:
        price = line["price"]
        charge = Charge(price["id"], price["model"], price["definition"], line["sac"], Decimal(line["gst_rate"]))
    key = LineKey(
        line["item"],
        line["meter_version"],
        date.fromisoformat(line["first_day"]),
        date.fromisoformat(line["last_day"]),
    )
    return FrozenLine(key, line["description"], line["unit"], charge)


def _seller(terms: Terms) -> gst.Seller:
    return gst.Seller(parse_gstin(terms.header["seller"]["gstin"]))


def _customer(terms: Terms) -> gst.Customer:
    customer = terms.header["customer"]
    gstin = parse_gstin(customer["gstin"]) if customer["gstin"] else None
    return gst.Customer(gstin, customer["state_code"], customer["country"])
