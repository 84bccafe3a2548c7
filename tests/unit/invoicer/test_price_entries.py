"""Mistakes in the seller and prices sections are told all at once, each with its place."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from services.invoicer.price_entries import parse_prices
from services.invoicer.pricing import Flat, PerUnit
from shared.domain.errors import Usage

METER = {"meter": "tokens", "per_unit": {"amount": "250.00", "per": 1_000_000}, "description": "Tokens"}
FLAT = {"flat": "platform_fee", "monthly": {"amount": "999.00"}, "description": "Platform fee"}
SELLER = {"name": "Khata", "gstin": "29AABCU9603R1ZJ", "address": "Bengaluru", "series": "KH"}


def test_what_is_left_out_has_its_default() -> None:
    tokens, fee = parse_prices(SELLER, [METER, FLAT | {"valid_from": date(2026, 1, 1), "sac": "998313"}]).prices
    assert (tokens.item, tokens.organisation, tokens.valid_from) == ("meter:tokens", None, date(2000, 1, 1))
    assert (tokens.currency, tokens.sac, tokens.price()) == ("INR", "998315", PerUnit(Decimal(250), Decimal(1_000_000)))
    assert (fee.item, fee.sac, fee.price()) == ("flat:platform_fee", "998313", Flat(Decimal(999)))


WRONG: list[tuple[dict[str, Any], str]] = [
    (METER | {"per_unit": {"amount": 250.0}}, r"prices\.0\.per_unit\.amount: must be a decimal in quotes"),
    (METER | {"per_unit": {"amount": "much"}}, r"prices\.0\.per_unit\.amount: 'much' is not a decimal"),
    (METER | {"per_unit": {"amount": "-1"}}, r"prices\.0: unit_amount is -1; it must be zero or more"),
    (METER | {"per_unit": {"amount": "1", "per": 0}}, r"prices\.0: per is 0; it must be above zero"),
    (METER | {"currency": "RS"}, r"prices\.0\.currency: 'RS' is not an active ISO 4217 currency"),
    (METER | {"sac": "123456"}, r"prices\.0\.sac: no GST rate is known for SAC 123456"),
    (METER | {"flat": "fee"}, r"prices\.0: give either meter or flat"),
    (FLAT | {"monthly": None}, r"prices\.0: a meter has a per_unit price, a flat item a monthly one"),
    (METER | {"tiers": []}, r"prices\.0\.tiers: Extra inputs are not permitted"),
]


@pytest.mark.parametrize(("entry", "message"), WRONG)
def test_a_wrong_price_is_refused_with_its_place(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(Usage, match=message):
        parse_prices(None, [entry])


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(Usage) as error:
        parse_prices(SELLER | {"gstin": "29AABCU9603R1ZK", "series": "KHATA"}, [METER, WRONG[0][0]], "prices.yaml")
    lines = str(error.value).splitlines()
    assert lines[0] == "prices.yaml has mistakes:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "seller.gstin",
        "seller.series",
        "prices.1.per_unit.amount",
    ]
    assert "check character" in lines[1]


def test_the_same_version_twice_is_refused() -> None:
    with pytest.raises(Usage, match=r"prices\.1 has the same item, organisation and day as prices\.0"):
        parse_prices(None, [METER, METER])
