"""Where a supply takes place, and the tax on it by head.

Tax is rounded once per rate and head on the taxable total, half-up to the paisa (CGST Act s.170 rounds what is
paid to the government, not each invoice). CGST and SGST are each computed alone at half the rate, so they are
always equal; their sum may differ by a paisa from one tax at the whole rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from enum import StrEnum

from services.invoicer.tax import states
from services.invoicer.tax.gstin import Gstin
from services.invoicer.tax.states import State
from shared.domain.errors import NeedsPerson, Rejected
from shared.domain.money import EXACT, round_half_up

INDIA = "IN"


class Head(StrEnum):
    """Which government a part of the tax goes to."""

    CGST = "CGST"
    SGST = "SGST"
    UTGST = "UTGST"
    IGST = "IGST"


class SupplyType(StrEnum):
    """Why the tax has the heads it has. Exports will be further members."""

    INTRA = "intra"
    INTER = "inter"
    SEZ_WITH_PAYMENT = "sez_with_payment"
    """To a special economic zone: inter-state wherever the zone lies (IGST Act s.7(5)(b)), IGST paid."""


@dataclass(frozen=True, slots=True)
class Seller:
    """The supplier: one registration, in one state."""

    gstin: Gstin

    @property
    def state(self) -> State:
        return self.gstin.state


@dataclass(frozen=True, slots=True)
class Customer:
    """The recipient. `gstin` None: unregistered, placed by `state_code`, the state of its address.

    `country` is ISO 3166 alpha-2. Raises `Rejected("sez_without_gstin")`: a unit of a zone is always registered.
    """

    gstin: Gstin | None = None
    state_code: str | None = None
    country: str = INDIA
    is_sez: bool = False

    def __post_init__(self) -> None:
        if self.is_sez and self.gstin is None:
            raise Rejected("sez_without_gstin", "a customer in a special economic zone has a GSTIN; enter it")


@dataclass(frozen=True, slots=True)
class TaxComponent:
    """Tax of one head at one rate: `rate` in percent of that head (9 for CGST of 18), amounts in minor units."""

    head: Head
    rate: Decimal
    taxable_minor: int
    amount_minor: int


@dataclass(frozen=True, slots=True)
class TaxResult:
    """Tax of one document; `taxable_minor` counts each rate group once, `total_minor` sums the components."""

    place_of_supply: State
    supply_type: SupplyType
    components: tuple[TaxComponent, ...]
    taxable_minor: int
    total_minor: int

    def by_head(self) -> dict[Head, int]:
        """Tax per head over all rates, minor units; what the ledger posts."""
        sums: dict[Head, int] = {}
        for component in self.components:
            sums[component.head] = sums.get(component.head, 0) + component.amount_minor
        return sums


def place_of_supply(seller: Seller, customer: Customer) -> State:
    """The state in which the service is supplied (IGST Act s.12(2)).

    Registered: the state of its GSTIN, whatever its address. Unregistered: the state of its address.
    Raises `NeedsPerson`: "missing_state" without one, since online services to an unregistered person must
    record it at any value (proviso to CGST Rule 46(f)) and s.12(2) would else silently make it the seller's;
    "export_unsupported" for a customer abroad (s.13(2)); `Rejected("unknown_state")` for a code that is none.
    """
    if customer.gstin is not None:
        return customer.gstin.state
    if customer.country != INDIA:
        raise NeedsPerson(
            "export_unsupported",
            f"a supply from {seller.state.name} to {customer.country} is an export; bill it by hand",
        )
    if customer.state_code is None:
        raise NeedsPerson(
            "missing_state", "the customer has neither a GSTIN nor a state; enter the state of its address"
        )
    place = states.state(customer.state_code)
    if place.code == states.OTHER_COUNTRY:
        raise Rejected("unknown_state", f"state code {place.code} means another country, but the customer is in India")
    return place


def tax(seller: Seller, customer: Customer, taxable_minor_by_rate: Mapping[Decimal, int]) -> TaxResult:
    """Tax on the taxable total (after discount, minor units) of each rate (percent, all heads together).

    Inside the seller's state CGST + SGST (UTGST in a union territory without legislature), else IGST (IGST Act
    s.7 and 8). A rate of zero gives components of zero, so the invoice shows it. Components are ordered by rate.
    Raises what `place_of_supply` raises, and ValueError for a rate outside 0 to 100.
    """
    place = place_of_supply(seller, customer)
    supply_type = _supply_type(seller, customer, place)
    components = tuple(
        component
        for rate, taxable_minor in sorted(taxable_minor_by_rate.items())
        for component in _components(supply_type, place, rate, taxable_minor)
    )
    return TaxResult(
        place_of_supply=place,
        supply_type=supply_type,
        components=components,
        taxable_minor=sum(taxable_minor_by_rate.values()),
        total_minor=sum(component.amount_minor for component in components),
    )


def _supply_type(seller: Seller, customer: Customer, place: State) -> SupplyType:
    if customer.is_sez:
        return SupplyType.SEZ_WITH_PAYMENT
    return SupplyType.INTRA if place == seller.state else SupplyType.INTER


def _components(supply_type: SupplyType, place: State, rate: Decimal, taxable_minor: int) -> list[TaxComponent]:
    if not rate.is_finite() or not 0 <= rate <= 100:
        raise ValueError(f"{rate} is not a tax rate in percent")
    if supply_type is not SupplyType.INTRA:
        return [_component(Head.IGST, rate, taxable_minor)]
    with localcontext(EXACT):
        half = rate / 2
    other = Head.UTGST if place.levies_utgst else Head.SGST
    return [_component(Head.CGST, half, taxable_minor), _component(other, half, taxable_minor)]


def _component(head: Head, rate: Decimal, taxable_minor: int) -> TaxComponent:
    with localcontext(EXACT):
        amount = taxable_minor * rate / 100
    return TaxComponent(head, rate, taxable_minor, round_half_up(amount))
