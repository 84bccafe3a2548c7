"""Which price holds on which day: an organisation's own price before the default, the newest version of each.

Versions never change: a new one takes over from its first local day. A change inside a month cuts it into
pieces, each rated alone (its own line, its own tiers), that tile the month exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from services.invoicer.pricing.rate import Price
from shared.domain.errors import NeedsPerson
from shared.domain.period import Month


@dataclass(frozen=True, slots=True)
class PriceVersion:
    """One row of `billing.price`: from the local day `valid_from` until the next version of the same scope.

    `item` is "meter:<meter id>" or "flat:<name>"; `organisation_id` None makes it the default for everyone.
    """

    id: int
    item: str
    organisation_id: str | None
    valid_from: date
    currency: str
    price: Price
    description: str
    sac: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Days of one month (both inclusive) on which nothing prices the item."""

    first_day: date
    last_day: date


@dataclass(frozen=True, slots=True)
class Piece:
    """Days of one month (both inclusive) on which `version` holds."""

    version: PriceVersion
    first_day: date
    last_day: date


def version_on(day: date, versions: Iterable[PriceVersion], item: str, organisation_id: str) -> PriceVersion | None:
    """The version that prices `item` for the organisation on the local `day`; None when there is none.

    Raises ValueError when two versions of one scope start on the same day (a unique index forbids it).
    """
    known = [version for version in versions if version.item == item and version.valid_from <= day]
    # A plan between the two will be one more scope in this order.
    for scope in (organisation_id, None):
        started = [version for version in known if version.organisation_id == scope]
        if started:
            newest = max(version.valid_from for version in started)
            holding = [version for version in started if version.valid_from == newest]
            if len(holding) > 1:
                raise ValueError(f"{item} has {len(holding)} prices of one scope from {newest}")
            return holding[0]
    return None


def tile(versions: Sequence[PriceVersion], item: str, organisation_id: str, month: Month) -> list[Piece | Gap]:
    """The month from its first to its last day, in order and without overlap, as pieces and gaps."""
    days = [month.first_day + timedelta(days=n) for n in range(month.days)]
    tiles: list[Piece | Gap] = []
    for day in days:
        version = version_on(day, versions, item, organisation_id)
        last = tiles[-1] if tiles else None
        match last:
            case Piece() if last.version == version:
                tiles[-1] = Piece(last.version, last.first_day, day)
            case Gap() if version is None:
                tiles[-1] = Gap(last.first_day, day)
            case _:
                tiles.append(Gap(day, day) if version is None else Piece(version, day, day))
    return tiles


def pieces(
    versions: Sequence[PriceVersion],
    item: str,
    organisation_id: str,
    month: Month,
    needed: Callable[[date], bool] = lambda _: True,
) -> list[Piece]:
    """The priced pieces of the month.

    `needed(day)` says whether the day must have a price (it had billable usage); without it every day must.
    Raises `NeedsPerson("missing_price")`, naming the days. A price of 0 is a price.
    """
    tiles = tile(versions, item, organisation_id, month)
    gaps = [gap for gap in tiles if isinstance(gap, Gap) and any(needed(day) for day in _days(gap))]
    if gaps:
        named = ", ".join(f"{gap.first_day} to {gap.last_day}" for gap in gaps)
        raise NeedsPerson(
            "missing_price",
            f"{item} of organisation {organisation_id} has no price from {named}; "
            f"add one valid from {gaps[0].first_day} or earlier",
        )
    return [piece for piece in tiles if isinstance(piece, Piece)]


def _days(gap: Gap) -> list[date]:
    return [gap.first_day + timedelta(days=n) for n in range((gap.last_day - gap.first_day).days + 1)]
