"""Whether the terms of a finalized invoice are those that catalogue, prices and rates ask for.

The document's own terms prove nothing about themselves (but for the level that a weighted_sum carries into the month:
that is made of all months before, and taken as it is frozen): here the month is tiled again from the prices in force,
for the usage that was counted again, and every line is compared with the one that ought to stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from services.invoicer import prices
from services.invoicer.calculate import FrozenLine, LineKey, terms_of
from services.invoicer.document import Document, differences, exact_text
from services.invoicer.frozen_meter import backfilled, frozen_meter
from services.invoicer.recount import Recount
from services.invoicer.tiling import frozen_lines
from shared.domain.errors import NeedsPerson
from shared.domain.meter import Meter, MeterIndex
from shared.domain.period import Month
from shared.postgres.meters import read_meters
from shared.postgres.pool import Connection
from shared.usage.backfill import MeterKey, cuts_of_backfills, made_after
from shared.usage.read import month_usage
from shared.usage.seal import Cut


async def term_problems(connection: Connection, document: Document, recount: Recount) -> list[str]:
    """Where they differ, in words; empty when they agree. `recount` has counted the invoice's usage.

    Raises KeyError, TypeError and ValueError for content that is no document.
    """
    later = await made_after(connection, recount.cut.id)  # counts in windows of this month, and for no invoice of it
    catalogue = {
        (meter.id, meter.version): meter
        for meter in MeterIndex.versions(await read_meters(connection))
        if (meter.id, meter.version) not in later
    }
    cuts = await cuts_of_backfills(connection)
    frozen = {(said["id"], said["version"]): said for said in document["meters"]}
    found = list(_meter_problems(frozen, catalogue, cuts))
    sealed = await month_usage(
        connection, recount.organisation_id, recount.start, recount.end, list(catalogue.values())
    )
    found += [
        f"meter {usage.meter.id} version {usage.meter.version} has usage, but the invoice does not know it"
        for usage in sealed
        if (usage.meter.id, usage.meter.version) not in frozen
    ]
    versions = await prices.read_versions(connection, recount.organisation_id)
    through_id = document["prices"]["through_id"]
    try:
        wanted = frozen_lines(
            recount.organisation_id,
            document["currency"],
            Month.parse(document["period"]["month"]),
            [version for version in versions if version.id <= through_id],
            [meter for key, meter in catalogue.items() if key in frozen],
            recount.used_on,
        )
    except NeedsPerson as error:
        return [*found, f"cannot be drafted again: {error.code}: {error.message}"]
    return found + list(line_problems(terms_of(document).lines, wanted))


def line_problems(stored: Sequence[FrozenLine], wanted: Sequence[FrozenLine]) -> Iterator[str]:
    """Lines that are missing, too many, or at other terms. Pure."""
    has, needs = {line.key: line for line in stored}, {line.key: line for line in wanted}
    if len(has) != len(stored):
        yield "a line stands twice"
    for key in sorted(has.keys() | needs.keys(), key=lambda key: (key.item, key.meter_version or 0, key.first_day)):
        if key not in has:
            yield f"{_name(key)}: the price in force asks for this line, but the invoice has none"
        elif key not in needs:
            yield f"{_name(key)}: no price in force asks for this line"
        else:
            yield from differences(_said(has[key]), _said(needs[key]), _name(key))


def _meter_problems(
    frozen: dict[tuple[str, int], dict[str, Any]], catalogue: dict[tuple[str, int], Meter], cuts: Mapping[MeterKey, Cut]
) -> Iterator[str]:
    for key, said in frozen.items():
        meter = catalogue.get(key)
        said = {name: value for name, value in said.items() if name != "level"}  # no part of the definition
        yield from differences(
            said, meter and frozen_meter(meter) | backfilled(cuts, meter), f"meter {key[0]} version {key[1]}"
        )


def _name(key: LineKey) -> str:
    version = "" if key.meter_version is None else f" version {key.meter_version}"
    return f"{key.item}{version} from {key.first_day} to {key.last_day}"


def _said(line: FrozenLine) -> dict[str, Any]:
    said: dict[str, Any] = {"description": line.description, "unit": line.unit, "price": None}
    if line.charge is not None:
        charge = line.charge
        said["price"] = {
            "id": charge.price_id,
            "model": charge.model,
            "definition": dict(charge.definition),
            "sac": charge.sac,
            "gst_rate": exact_text(charge.gst_rate),
        }
    return said
