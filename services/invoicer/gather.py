"""Read everything an invoice is made of: parties, prices, sealed usage. An edge without a decision about money."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from services.invoicer import prices
from services.invoicer.calculate import Charge, FrozenLine, LineKey, Terms, Used
from services.invoicer.document import ENGINE_VERSION
from services.invoicer.pricing import price_definition
from services.invoicer.pricing.lookup import Gap, Piece, PriceVersion, pieces, tile
from services.invoicer.tax.gstin import parse_gstin
from services.invoicer.tax.rates import rate_on
from services.invoicer.tax.states import state
from shared.domain.errors import NeedsPerson
from shared.domain.meter import Meter
from shared.domain.period import Month, day_start, time_zone
from shared.postgres.pool import Connection
from shared.usage.metering import read_meters
from shared.usage.read import MeterUsage, month_usage
from shared.usage.seal import Cut

FLAT = "flat:"
MONTH_UNIT = "month"


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
    reader = _Reader(connection, organisation, month, await prices.read_versions(connection, organisation.id))
    meters = {(meter.id, meter.version): meter for meter in await read_meters(connection)}
    lines: list[FrozenLine] = []
    informational: list[FrozenLine] = []
    used: dict[LineKey, Used] = {}
    for usage in await reader.usage(month.first_day, month.last_day):
        meter = meters[usage.meter_id, usage.meter_version]
        of_meter = await reader.meter_lines(meter) if meter.billable else [reader.informational(meter)]
        for line in of_meter:
            (lines if meter.billable else informational).append(line)
            used[line.key] = await reader.used(line.key)
    lines += reader.flat_lines()
    header = await _header(connection, organisation, month, cut, list(meters.values()))
    return Terms(header, [*lines, *informational]), used


class _Reader:
    """Usage and prices of one organisation and month."""

    def __init__(
        self, connection: Connection, organisation: Organisation, month: Month, versions: Sequence[PriceVersion]
    ) -> None:
        self._connection, self._organisation, self._month, self._versions = connection, organisation, month, versions
        self._usage: dict[tuple[date, date], list[MeterUsage]] = {}

    async def usage(self, first_day: date, last_day: date) -> list[MeterUsage]:
        """Sealed usage of these local days (both inclusive); each stretch is read once."""
        if (first_day, last_day) not in self._usage:
            zone = self._organisation.zone
            self._usage[first_day, last_day] = await month_usage(
                self._connection,
                self._organisation.id,
                day_start(first_day, zone),
                day_start(last_day + timedelta(days=1), zone),
            )
        return self._usage[first_day, last_day]

    async def used(self, key: LineKey) -> Used:
        for usage in await self.usage(key.first_day, key.last_day):
            if (f"meter:{usage.meter_id}", usage.meter_version) == (key.item, key.meter_version):
                return Used(usage.sum, usage.count, usage.fingerprint)
        raise AssertionError(f"{key} has no usage, so it has no line")

    async def meter_lines(self, meter: Meter) -> list[FrozenLine]:
        """A line per piece of the month with usage; every day with usage has a price or the invoice stops."""
        item = f"meter:{meter.id}"
        needed: set[date] = set()
        for gap in tile(self._versions, item, self._organisation.id, self._month):
            if isinstance(gap, Gap) and await self._has_usage(meter, gap.first_day, gap.last_day):
                needed.add(gap.first_day)
        found = pieces(self._versions, item, self._organisation.id, self._month, needed.__contains__)
        return [
            self._line(piece, meter.version, meter.unit)
            for piece in found
            if await self._has_usage(meter, piece.first_day, piece.last_day)
        ]

    def informational(self, meter: Meter) -> FrozenLine:
        key = LineKey(f"meter:{meter.id}", meter.version, self._month.first_day, self._month.last_day)
        return FrozenLine(key, meter.name, meter.unit, None)

    def flat_lines(self) -> list[FrozenLine]:
        """A line per piece of every flat price in force; days without one are not charged."""
        items = sorted({version.item for version in self._versions if version.item.startswith(FLAT)})
        return [
            self._line(piece, None, MONTH_UNIT)
            for item in items
            for piece in pieces(self._versions, item, self._organisation.id, self._month, lambda _: False)
        ]

    async def _has_usage(self, meter: Meter, first_day: date, last_day: date) -> bool:
        found = await self.usage(first_day, last_day)
        return any((usage.meter_id, usage.meter_version) == (meter.id, meter.version) for usage in found)

    def _line(self, piece: Piece, meter_version: int | None, unit: str) -> FrozenLine:
        version = piece.version
        if version.currency != self._organisation.currency:
            raise NeedsPerson(
                "currency_mismatch",
                f"{version.item} is priced in {version.currency}, but {self._organisation.id} is billed in "
                f"{self._organisation.currency}; add a price of its own",
            )
        model, definition = price_definition(version.price)
        gst_rate = rate_on(version.sac, self._month.last_day).rate
        return FrozenLine(
            LineKey(version.item, meter_version, piece.first_day, piece.last_day),
            version.description,
            unit,
            Charge(version.id, model, definition, version.sac, gst_rate),
        )


async def _header(
    connection: Connection, organisation: Organisation, month: Month, cut: Cut, meters: Sequence[Meter]
) -> dict[str, Any]:
    seller = await (
        await connection.execute("SELECT name, gstin, state_code, address, series FROM billing.seller")
    ).fetchone()
    if seller is None:
        raise NeedsPerson("missing_seller", "nobody is named as the seller; add `seller` to the catalogue and apply it")
    start, end = month.bounds(organisation.zone)
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
            "offsets": {
                topic: {str(partition): offset for partition, offset in sorted(partitions.items())}
                for topic, partitions in cut.offsets.items()
            },
        },
        # All of them, not only those with a line: usage of a meter that has no line is found by counting again.
        "meters": [
            {
                "id": meter.id,
                "version": meter.version,
                "event_type": meter.event_type,
                "aggregation": meter.aggregation,
                "value_path": meter.value_path,
            }
            for meter in sorted(meters, key=lambda meter: (meter.id, meter.version))
        ],
    }
