"""Which price holds on which day."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.invoicer.pricing import PerUnit
from services.invoicer.pricing.lookup import Gap, Piece, PriceVersion, pieces, tile, version_on
from shared.domain.errors import NeedsPerson
from shared.domain.period import Month

ITEM = "meter:tokens"
OCTOBER = Month(2026, 10)


def version(
    number: int, valid_from: date, organisation_id: str | None = None, amount: str = "1.00", item: str = ITEM
) -> PriceVersion:
    price = PerUnit(Decimal(amount))
    return PriceVersion(number, item, organisation_id, valid_from, "INR", price, "Tokens", "998315")


LONG_AGO = version(1, date(2020, 1, 1))


def test_the_default_prices_an_organisation_without_its_own() -> None:
    own_of_another = version(2, date(2020, 1, 1), "globex")
    assert version_on(date(2026, 10, 5), [own_of_another, LONG_AGO], ITEM, "acme") == LONG_AGO


def test_an_organisations_own_price_wins_however_old() -> None:
    own = version(2, date(2019, 1, 1), "acme", amount="0")
    newer_default = version(3, date(2026, 1, 1))
    assert version_on(date(2026, 10, 5), [LONG_AGO, newer_default, own], ITEM, "acme") == own


def test_a_price_of_another_item_prices_nothing() -> None:
    other = version(2, date(2020, 1, 1), item="meter:requests")
    assert version_on(date(2026, 10, 5), [other], ITEM, "acme") is None


def test_a_change_inside_the_month_makes_two_pieces() -> None:
    raised = version(2, date(2026, 10, 16), amount="2.00")

    priced = pieces([raised, LONG_AGO], ITEM, "acme", OCTOBER)

    assert priced == [
        Piece(LONG_AGO, date(2026, 10, 1), date(2026, 10, 15)),
        Piece(raised, date(2026, 10, 16), date(2026, 10, 31)),
    ]


def test_a_new_default_does_not_cut_the_month_of_an_organisation_with_its_own_price() -> None:
    own = version(2, date(2026, 1, 1), "acme")
    raised = version(3, date(2026, 10, 16))
    assert pieces([LONG_AGO, own, raised], ITEM, "acme", OCTOBER) == [Piece(own, date(2026, 10, 1), date(2026, 10, 31))]


def test_a_change_on_the_first_day_leaves_one_piece() -> None:
    raised = version(2, date(2026, 10, 1))
    assert pieces([LONG_AGO, raised], ITEM, "acme", OCTOBER) == [Piece(raised, date(2026, 10, 1), date(2026, 10, 31))]


def test_days_without_a_price_are_named() -> None:
    late = version(1, date(2026, 10, 15))
    with pytest.raises(NeedsPerson, match="no price from 2026-10-01 to 2026-10-14") as needed:
        pieces([late], ITEM, "acme", OCTOBER)
    assert needed.value.code == "missing_price"


def test_days_without_a_price_and_without_usage_need_nobody() -> None:
    late = version(1, date(2026, 10, 15))
    first_use = date(2026, 10, 15)

    priced = pieces([late], ITEM, "acme", OCTOBER, needed=lambda day: day >= first_use)

    assert priced == [Piece(late, date(2026, 10, 15), date(2026, 10, 31))]
    with pytest.raises(NeedsPerson):
        pieces([late], ITEM, "acme", OCTOBER, needed=lambda day: day >= first_use - timedelta(days=1))


def test_two_prices_of_one_scope_and_day_are_refused() -> None:
    with pytest.raises(ValueError, match="2 prices of one scope"):
        version_on(date(2026, 10, 1), [LONG_AGO, version(2, LONG_AGO.valid_from)], ITEM, "acme")


SCOPED_STARTS = st.sets(
    st.tuples(st.dates(date(2026, 8, 1), date(2026, 12, 31)), st.sampled_from([None, "acme", "globex"])), max_size=8
)


@given(SCOPED_STARTS, st.sampled_from([Month(2026, 9), Month(2026, 10), Month(2026, 11)]))
def test_pieces_and_gaps_tile_the_month(starts: set[tuple[date, str | None]], month: Month) -> None:
    versions = [version(n, start, scope) for n, (start, scope) in enumerate(starts)]

    tiles = tile(versions, ITEM, "acme", month)

    assert tiles[0].first_day == month.first_day
    assert tiles[-1].last_day == month.last_day
    for left, right in zip(tiles, tiles[1:], strict=False):
        assert left.last_day + timedelta(days=1) == right.first_day
    for one in tiles:
        for n in range((one.last_day - one.first_day).days + 1):
            holding = version_on(one.first_day + timedelta(days=n), versions, ITEM, "acme")
            assert holding == (None if isinstance(one, Gap) else one.version)
