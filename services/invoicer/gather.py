"""Read everything an invoice is made of: parties, prices, sealed usage. An edge without a decision about money."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from services.invoicer import prices
from services.invoicer.calculate import LineKey, Terms, Used
from services.invoicer.document import ENGINE_VERSION, exact_text, offsets_said
from services.invoicer.frozen_meter import backfilled, frozen_meter
from services.invoicer.pricing.lookup import PriceVersion
from services.invoicer.tax.gstin import parse_gstin
from services.invoicer.tax.states import state
from services.invoicer.tiling import frozen_lines, stretches
from shared.domain.errors import NeedsPerson
from shared.domain.meter import Meter
from shared.domain.period import Month, day_start, time_zone
from shared.postgres.meters import read_meters
from shared.postgres.pool import Connection
from shared.usage.backfill import cuts_of_backfills, made_after
from shared.usage.read import level_before, month_usage
from shared.usage.seal import Cut


@dataclass(frozen=True, slots=True)
class Organisation:
    """A customer as the catalogue has it now; the invoice keeps its own copy."""

    id: str
    name: str
    currency: str
    zone: ZoneInfo
    country: str
    state_code: str | None
    gstin: str | None
    address: str


async def read_organisation(connection: Connection, organisation_id: str) -> Organisation:
    """The organisation must exist: the caller read its id from the catalogue."""
    row = await (
        await connection.execute(
            """
            SELECT id, name, currency, time_zone, country, state_code, gstin, address
            FROM catalogue.organisation WHERE id = %s
            """,
            (organisation_id,),
        )
    ).fetchone()
    assert row is not None, f"organisation {organisation_id} does not exist"
    id, name, currency, zone, country, state_code, gstin, address = row
    return Organisation(id, name, currency, time_zone(zone), country, state_code, gstin, address)


async def gather(
    connection: Connection, organisation: Organisation, month: Month, cut: Cut
) -> tuple[Terms, dict[LineKey, Used]]:
    """Frozen terms of the month's invoice and the sealed usage of each of its lines.

    The caller holds the price lock. Raises NeedsPerson: `missing_price` (billable usage on a day without one),
    `currency_mismatch`, `missing_seller`, `missing_tax_rate`; `Rejected("invalid_gstin")` for the customer's.
    """
    versions = await prices.read_versions(connection, organisation.id)
    # What was made after the seal and counts old events too has usage in this month that nobody is billed for.
    later = await made_after(connection, cut.id)
    meters = [meter for meter in await read_meters(connection) if (meter.id, meter.version) not in later]
    start, end = month.bounds(organisation.zone)
    usage = {
        (first_day, last_day): await _usage(connection, organisation, first_day, last_day, meters, (start, end))
        for first_day, last_day in stretches(organisation.id, month, versions, meters)
    }

    def used_on(meter: Meter, first_day: date, last_day: date) -> bool:
        return (f"meter:{meter.id}", meter.version) in usage[first_day, last_day]

    lines = frozen_lines(organisation.id, organisation.currency, month, versions, meters, used_on)
    used = {
        line.key: usage[line.key.first_day, line.key.last_day][line.key.item, line.key.meter_version]
        for line in lines
        if line.key.meter_version is not None
    }
    return Terms(await _header(connection, organisation, month, cut, meters, versions), lines), used


async def _usage(
    connection: Connection,
    organisation: Organisation,
    first_day: date,
    last_day: date,
    meters: Sequence[Meter],
    month: tuple[datetime, datetime],
) -> dict[tuple[str, int], Used]:
    """Sealed usage of these local days (both inclusive) by (item, meter version); `month`: its bounds."""
    found = await month_usage(
        connection,
        organisation.id,
        day_start(first_day, organisation.zone),
        day_start(last_day + timedelta(days=1), organisation.zone),
        meters,
        of=month[1] - month[0],
        late_before=month[0],
    )
    return {
        (f"meter:{usage.meter.id}", usage.meter.version): Used(
            usage.quantity, usage.parts.count, usage.parts.fingerprint
        )
        for usage in found
    }


async def _header(
    connection: Connection,
    organisation: Organisation,
    month: Month,
    cut: Cut,
    meters: Sequence[Meter],
    versions: Sequence[PriceVersion],
) -> dict[str, Any]:
    seller = await (
        await connection.execute("SELECT name, gstin, state_code, address, series FROM billing.seller")
    ).fetchone()
    if seller is None:
        raise NeedsPerson("missing_seller", "nobody is named as the seller; add `seller` to the catalogue and apply it")
    start, end = month.bounds(organisation.zone)
    cuts = await cuts_of_backfills(connection)
    return {
        "kind": "monthly",
        "engine_version": ENGINE_VERSION,
        "currency": organisation.currency,
        "seller": {
            "name": seller[0],
            "gstin": seller[1],
            "state_code": seller[2],
            "state": state(seller[2]).name,
            "address": seller[3],
            "series": seller[4],
        },
        "customer": {
            "organisation_id": organisation.id,
            "name": organisation.name,
            "gstin": parse_gstin(organisation.gstin).text if organisation.gstin else None,
            "state_code": organisation.state_code,
            "country": organisation.country,
            "address": organisation.address,
        },
        "period": {
            "month": str(month),
            "first_day": month.first_day.isoformat(),
            "last_day": month.last_day.isoformat(),
            "time_zone": organisation.zone.key,
            "start": start.astimezone(UTC).isoformat(),
            "end": end.astimezone(UTC).isoformat(),
        },
        "cut": {
            "id": cut.id,
            "offsets": offsets_said(cut.offsets),
        },
        # The newest price that could be seen. Ids rise under the price lock, so those above came later: what fills
        # days without a price after the invoice is no part of it.
        "prices": {"through_id": max((version.id for version in versions), default=0)},
        # All of them, not only those with a line: usage of a meter that has no line is found by counting again.
        "meters": [
            frozen_meter(meter) | backfilled(cuts, meter) | await _level(connection, organisation, meter, start)
            for meter in sorted(meters, key=lambda meter: (meter.id, meter.version))
        ],
    }


async def _level(connection: Connection, organisation: Organisation, meter: Meter, start: datetime) -> dict[str, str]:
    """What a weighted_sum carries into the month: frozen, for it is made of all that came before."""
    if meter.aggregation != "weighted_sum":
        return {}
    begins = max(start, meter.effective_from or start)
    return {"level": exact_text(await level_before(connection, organisation.id, meter.id, begins, late_before=start))}
