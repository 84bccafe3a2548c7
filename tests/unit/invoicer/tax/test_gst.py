"""Place of supply, and the split of the tax."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.invoicer.tax.gst import Customer, Head, Seller, SupplyType, TaxComponent, place_of_supply, tax
from services.invoicer.tax.gstin import check_character, parse_gstin
from services.invoicer.tax.rates import RATES, SacRate, rate_on
from services.invoicer.tax.states import NAMES, state
from shared.domain.errors import NeedsPerson, Rejected

SELLER = Seller(parse_gstin("29AABCU9603R1ZJ"))  # Karnataka
IN_KARNATAKA = Customer(parse_gstin("29AACCR7832C1ZD"))
IN_MAHARASHTRA = Customer(parse_gstin("27AAPFU0939F1ZV"))
EIGHTEEN = Decimal(18)

RATES_IN_USE = st.sampled_from([Decimal(r) for r in ("0", "0.25", "3", "5", "12", "18", "28", "40")])
TAXABLE = st.integers(-(10**13), 10**13)


def registered_in(code: str) -> Seller:
    first = f"{code}AABCU9603R1Z"
    return Seller(parse_gstin(first + check_character(first)))


def test_inside_the_state_half_is_cgst_and_half_sgst() -> None:
    result = tax(SELLER, IN_KARNATAKA, {EIGHTEEN: 476_089})

    # 4760.89 x 9 % = 428.4801, twice
    assert result.supply_type is SupplyType.INTRA
    assert result.components == (
        TaxComponent(Head.CGST, Decimal(9), 476_089, 42_848),
        TaxComponent(Head.SGST, Decimal(9), 476_089, 42_848),
    )
    assert (result.taxable_minor, result.total_minor) == (476_089, 85_696)


def test_to_another_state_all_of_it_is_igst() -> None:
    result = tax(SELLER, IN_MAHARASHTRA, {EIGHTEEN: 476_089})

    assert result.supply_type is SupplyType.INTER
    assert result.place_of_supply == state("27")
    assert result.components == (TaxComponent(Head.IGST, EIGHTEEN, 476_089, 85_696),)


@pytest.mark.parametrize(
    ("code", "head"),
    [
        ("04", Head.UTGST),
        ("26", Head.UTGST),
        ("31", Head.UTGST),
        ("35", Head.UTGST),
        ("38", Head.UTGST),
        ("97", Head.UTGST),
        ("07", Head.SGST),  # Delhi, Puducherry, Jammu and Kashmir have a legislature
        ("34", Head.SGST),
        ("01", Head.SGST),
    ],
)
def test_a_union_territory_without_legislature_levies_utgst(code: str, head: Head) -> None:
    result = tax(registered_in(code), Customer(state_code=code), {EIGHTEEN: 10_000})
    assert result.by_head() == {Head.CGST: 900, head: 900}


def test_a_zone_is_inter_state_even_in_the_sellers_state() -> None:
    in_a_zone = Customer(parse_gstin("29AACCR7832C1ZD"), is_sez=True)

    result = tax(SELLER, in_a_zone, {EIGHTEEN: 10_000})

    assert (result.supply_type, result.place_of_supply.code) == (SupplyType.SEZ_WITH_PAYMENT, "29")
    assert result.by_head() == {Head.IGST: 1_800}


def test_a_zone_without_gstin_is_rejected() -> None:
    with pytest.raises(Rejected) as rejected:
        Customer(state_code="29", is_sez=True)
    assert rejected.value.code == "sez_without_gstin"


def test_a_registered_customer_is_placed_by_its_gstin_whatever_its_address() -> None:
    customer = Customer(parse_gstin("27AAPFU0939F1ZV"), state_code="29", country="SG")
    assert place_of_supply(SELLER, customer) == state("27")


def test_an_unregistered_customer_is_placed_by_its_address() -> None:
    assert place_of_supply(SELLER, Customer(state_code="33")).name == "Tamil Nadu"


@pytest.mark.parametrize(
    ("customer", "code"),
    [
        (Customer(), "missing_state"),
        (Customer(country="SG"), "export_unsupported"),
        (Customer(state_code="28"), "unknown_state"),
        (Customer(state_code="KA"), "unknown_state"),
        (Customer(state_code="96"), "unknown_state"),
    ],
)
def test_a_customer_that_cannot_be_placed_is_never_guessed(customer: Customer, code: str) -> None:
    with pytest.raises((NeedsPerson, Rejected)) as raised:
        tax(SELLER, customer, {EIGHTEEN: 100})
    assert isinstance(raised.value, NeedsPerson | Rejected)
    assert raised.value.code == code


def test_each_half_rounds_alone_so_both_stay_equal() -> None:
    # 0.50 x 9 % = 0.045 is 5 paise twice; one tax of 18 % would be 9
    assert tax(SELLER, IN_KARNATAKA, {EIGHTEEN: 50}).by_head() == {Head.CGST: 5, Head.SGST: 5}
    assert tax(SELLER, IN_MAHARASHTRA, {EIGHTEEN: 50}).by_head() == {Head.IGST: 9}


def test_tax_rounds_on_the_taxable_total_of_a_rate() -> None:
    # 3 lines of 0.03 at 18 %: 0.0054 each would round to 1 paisa thrice; 0.0162 together is 2
    assert tax(SELLER, IN_MAHARASHTRA, {EIGHTEEN: 9}).total_minor == 2


def test_rates_are_taxed_apart_and_listed_in_order() -> None:
    result = tax(SELLER, IN_MAHARASHTRA, {EIGHTEEN: 1_000, Decimal(5): 2_000, Decimal(0): 500})

    assert [(c.rate, c.taxable_minor, c.amount_minor) for c in result.components] == [
        (Decimal(0), 500, 0),
        (Decimal(5), 2_000, 100),
        (Decimal(18), 1_000, 180),
    ]
    assert (result.taxable_minor, result.total_minor) == (3_500, 280)


@pytest.mark.parametrize("rate", ["-1", "100.01", "NaN"])
def test_a_rate_that_cannot_be_is_refused(rate: str) -> None:
    with pytest.raises(ValueError, match="not a tax rate"):
        tax(SELLER, IN_MAHARASHTRA, {Decimal(rate): 100})


@given(st.dictionaries(RATES_IN_USE, TAXABLE), st.sampled_from(sorted(NAMES.keys() - {"96"})))
def test_the_halves_are_equal_and_the_components_sum_to_the_tax(taxable: dict[Decimal, int], code: str) -> None:
    result = tax(registered_in(code), Customer(state_code=code), taxable)

    heads = result.by_head()
    assert heads.get(Head.CGST, 0) == heads.get(Head.SGST, 0) + heads.get(Head.UTGST, 0)
    assert sum(heads.values()) == result.total_minor
    assert result.taxable_minor == sum(taxable.values())


@given(RATES_IN_USE, TAXABLE)
def test_the_tax_of_a_credit_note_is_that_of_its_invoice(rate: Decimal, taxable: int) -> None:
    for customer in (IN_KARNATAKA, IN_MAHARASHTRA):
        billed, credited = tax(SELLER, customer, {rate: taxable}), tax(SELLER, customer, {rate: -taxable})
        assert billed.total_minor == -credited.total_minor


# --- rates ------------------------------------------------------------------------------------------------------


def test_hosting_is_taxed_at_18_percent_since_gst_began() -> None:
    assert rate_on("998315", date(2017, 7, 1)).rate == EIGHTEEN
    assert rate_on("998315", date(2026, 10, 31)).rate == EIGHTEEN


@pytest.mark.parametrize(("sac", "day"), [("998315", date(2017, 6, 30)), ("999999", date(2026, 10, 1))])
def test_a_service_without_a_known_rate_needs_a_person(sac: str, day: date) -> None:
    with pytest.raises(NeedsPerson, match=f"SAC {sac} on {day}") as needed:
        rate_on(sac, day)
    assert needed.value.code == "missing_tax_rate"


def test_a_change_of_the_law_leaves_earlier_supplies_alone() -> None:
    changed = (*RATES, SacRate("998315", Decimal(20), date(2027, 4, 1), "Hosting"))
    assert rate_on("998315", date(2027, 3, 31), changed).rate == EIGHTEEN
    assert rate_on("998315", date(2027, 4, 1), changed).rate == 20
