"""Which lines a month has: prices in force cut it into pieces, usage says which of them are needed. Pure.

Draft, finalize and verify all ask here, each with what it knows of usage, so a line cannot be missing, or stand at
another price, in one of them alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date

from services.invoicer.calculate import Charge, FrozenLine, LineKey
from services.invoicer.pricing import price_definition
from services.invoicer.pricing.lookup import Gap, Piece, PriceVersion, pieces, tile
from services.invoicer.tax.rates import rate_on
from shared.domain.errors import NeedsPerson
from shared.domain.meter import Meter
from shared.domain.period import Month

FLAT = "flat:"
MONTH_UNIT = "month"

UsedOn = Callable[[Meter, date, date], bool]
"""Whether the meter has usage on these local days (both inclusive); asked only for `stretches`."""


def stretches(
    organisation_id: str, month: Month, versions: Sequence[PriceVersion], meters: Iterable[Meter]
) -> set[tuple[date, date]]:
    """The stretches of days whose usage decides about lines: the month, and every piece and gap of a meter's price."""
    found = {(month.first_day, month.last_day)}
    for meter in meters:
        if meter.billable:
            found |= {
                (each.first_day, each.last_day) for each in tile(versions, item_of(meter), organisation_id, month)
            }
    return found


def frozen_lines(
    organisation_id: str,
    currency: str,
    month: Month,
    versions: Sequence[PriceVersion],
    meters: Iterable[Meter],
    used_on: UsedOn,
) -> list[FrozenLine]:
    """Billable lines in order of meter, flat prices, informational lines.

    A meter has a line per piece of the month with usage, a flat price one per piece that it is in force for. Raises
    NeedsPerson: `missing_price` (usage of a billable meter on a day without a price), `currency_mismatch`,
    `missing_tax_rate`.
    """
    lines: list[FrozenLine] = []
    informational: list[FrozenLine] = []

    def line(piece: Piece, meter_version: int | None, unit: str) -> FrozenLine:
        if piece.version.currency != currency:
            raise NeedsPerson(
                "currency_mismatch",
                f"{piece.version.item} is priced in {piece.version.currency}, but {organisation_id} is billed in "
                f"{currency}; add a price of its own",
            )
        return _line(piece, month, meter_version, unit)

    for meter in sorted(meters, key=lambda meter: (meter.id, meter.version)):
        if not used_on(meter, month.first_day, month.last_day):
            continue
        if not meter.billable:
            key = LineKey(item_of(meter), meter.version, month.first_day, month.last_day)
            informational.append(FrozenLine(key, meter.name, meter.unit, None))
            continue
        lines += [
            line(piece, meter.version, meter.unit)
            for piece in _priced(organisation_id, month, versions, meter, used_on)
            if used_on(meter, piece.first_day, piece.last_day)
        ]
    for item in sorted({version.item for version in versions if version.item.startswith(FLAT)}):
        # Days without a price are not charged.
        lines += [
            line(piece, None, MONTH_UNIT) for piece in pieces(versions, item, organisation_id, month, lambda _: False)
        ]
    return [*lines, *informational]


def item_of(meter: Meter) -> str:
    return f"meter:{meter.id}"


def _priced(
    organisation_id: str, month: Month, versions: Sequence[PriceVersion], meter: Meter, used_on: UsedOn
) -> list[Piece]:
    """The pieces of a meter; every day with usage has a price or the invoice stops."""
    needed = {
        gap.first_day
        for gap in tile(versions, item_of(meter), organisation_id, month)
        if isinstance(gap, Gap) and used_on(meter, gap.first_day, gap.last_day)
    }
    return pieces(versions, item_of(meter), organisation_id, month, needed.__contains__)


def _line(piece: Piece, month: Month, meter_version: int | None, unit: str) -> FrozenLine:
    version = piece.version
    model, definition = price_definition(version.price)
    return FrozenLine(
        LineKey(version.item, meter_version, piece.first_day, piece.last_day),
        version.description,
        unit,
        Charge(version.id, model, definition, version.sac, rate_on(version.sac, month.last_day).rate),
    )
