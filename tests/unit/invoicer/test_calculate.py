"""The same terms and usage give the same document; a document gives its terms back."""

from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.invoicer.calculate import Charge, FrozenLine, LineKey, Terms, Used, calculate, terms_of
from services.invoicer.document import canonical, numbered
from shared.domain.errors import NeedsPerson, Rejected
from shared.domain.identity import Fingerprint

FIRST, LAST = date(2025, 10, 1), date(2025, 10, 31)


def header(**customer: Any) -> dict[str, Any]:
    return {
        "kind": "monthly",
        "engine_version": "1",
        "currency": "INR",
        "seller": {"gstin": "29AABCU9603R1ZJ", "name": "Khata"},
        "customer": {"organisation_id": "acme", "gstin": None, "state_code": "29", "country": "IN"} | customer,
        "period": {"month": "2025-10"},
        "cut": {"id": 1, "offsets": {"usage.events.v1": {"0": 7}}},
        "meters": [],
    }


def tokens(first: date = FIRST, last: date = LAST, amount: str = "250.00", gst: str = "18") -> FrozenLine:
    charge = Charge(1, "per_unit", {"unit_amount": amount, "per": "1000000"}, "998315", Decimal(gst))
    return FrozenLine(LineKey("meter:tokens", 1, first, last), "Tokens", "token", charge)


def used(quantity: str, events: int = 3) -> Used:
    return Used(Decimal(quantity), events, Fingerprint(11, 22))


def test_what_a_line_says() -> None:
    line = tokens()
    document = calculate(Terms(header(), [line]), {line.key: used("18059974")})
    assert document["lines"] == [
        {
            "position": 1,
            "item": "meter:tokens",
            "meter_version": 1,
            "description": "Tokens",
            "first_day": "2025-10-01",
            "last_day": "2025-10-31",
            "unit": "token",
            "quantity": "18059974",
            "billable": True,
            "sac": "998315",
            "gst_rate": "18",
            "price": {"id": 1, "model": "per_unit", "definition": {"unit_amount": "250.00", "per": "1000000"}},
            "exact_amount": "4514.993500000000",
            "amount_minor": 451_499,
            "usage": {"events": 3, "fingerprint_high": 11, "fingerprint_low": 22},
        }
    ]
    assert document["totals"] == {
        "subtotal_minor": 451_499,
        "discount_minor": 0,
        "taxable_minor": 451_499,
        "tax_minor": 81_270,
        "total_minor": 532_769,
    }
    assert document["place_of_supply"] == {"code": "29", "name": "Karnataka"}


def test_tax_is_taken_once_per_rate_over_all_lines_of_it() -> None:
    # Alone each line of 0.05 would be taxed 9 % = 0.0045 -> 0.00; together 0.10 x 9 % = 0.009 -> 0.01.
    first, second = tokens(FIRST, date(2025, 10, 15)), tokens(date(2025, 10, 16), LAST)
    quantities = {first.key: used("200"), second.key: used("200")}
    document = calculate(Terms(header(), [first, second]), quantities)
    assert [line["amount_minor"] for line in document["lines"]] == [5, 5]
    assert [(tax["head"], tax["amount_minor"]) for tax in document["tax"]] == [("CGST", 1), ("SGST", 1)]


def test_a_line_of_another_rate_is_taxed_apart() -> None:
    standard, lower = tokens(), tokens(gst="5")
    other = FrozenLine(lower.key._replace(item="meter:other"), "Other", "token", lower.charge)
    document = calculate(
        Terms(header(state_code="27"), [standard, other]), {standard.key: used("4000000"), other.key: used("4000000")}
    )
    assert [(tax["rate"], tax["taxable_minor"], tax["amount_minor"]) for tax in document["tax"]] == [
        ("5", 100_000, 5_000),
        ("18", 100_000, 18_000),
    ]


def test_what_is_informational_is_shown_and_never_priced() -> None:
    line = tokens()
    requests = FrozenLine(LineKey("meter:requests", 1, FIRST, LAST), "Requests", "request", None)
    document = calculate(Terms(header(), [line, requests]), {line.key: used("0"), requests.key: used("9")})
    assert [(one["item"], one["quantity"], one["billable"]) for one in document["informational"]] == [
        ("meter:requests", "9", False)
    ]
    assert document["totals"]["total_minor"] == 0


def test_a_flat_price_of_part_of_the_month_is_charged_by_days() -> None:
    charge = Charge(2, "flat", {"unit_amount": "999.00"}, "998315", Decimal(18))
    flat = FrozenLine(LineKey("flat:fee", None, date(2025, 10, 22), LAST), "Fee", "month", charge)
    [line] = calculate(Terms(header(), [flat]), {})["lines"]
    assert (line["quantity"], line["amount_minor"], line["usage"]) == ("1", 32_226, None)  # 999 x 10/31 = 322.258...


def test_usage_that_sums_to_less_than_nothing_stops_the_invoice() -> None:
    line = tokens()
    with pytest.raises(Rejected) as error:
        calculate(Terms(header(), [line]), {line.key: used("-1")})
    assert error.value.code == "invalid_quantity"


def test_a_customer_without_state_stops_the_invoice() -> None:
    line = tokens()
    with pytest.raises(NeedsPerson) as error:
        calculate(Terms(header(state_code=None), [line]), {line.key: used("1")})
    assert error.value.code == "missing_state"


@given(st.data())
def test_terms_come_back_from_the_document_and_give_the_same_bytes(data: st.DataObject) -> None:
    quantities = st.decimals(0, 10**13, allow_nan=False, allow_infinity=False, places=18)
    amounts = st.decimals(0, 10**6, allow_nan=False, allow_infinity=False, places=12).map(lambda d: f"{d:f}")
    cut = data.draw(st.integers(1, 30))
    lines = [tokens(FIRST, FIRST + timedelta(days=cut - 1), data.draw(amounts))]
    lines.append(tokens(FIRST + timedelta(days=cut), LAST, data.draw(amounts)))
    informational = FrozenLine(LineKey("meter:requests", 1, FIRST, LAST), "Requests", "request", None)
    terms = Terms(header(), [*lines, informational])
    quantity = {line.key: Used(data.draw(quantities), 1, Fingerprint()) for line in terms.lines}

    content = canonical(numbered(calculate(terms, quantity), "KH/25-26/000001", date(2025, 11, 1)))

    again = terms_of(json.loads(content))
    assert canonical(numbered(calculate(again, quantity), "KH/25-26/000001", date(2025, 11, 1))) == content
