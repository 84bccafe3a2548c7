"""Apply the seller and the prices of a catalogue file, in the caller's transaction.

1  wait for the drafts in flight; from here to COMMIT no draft begins to read prices
2  the seller: changed in place (every invoice has its own copy of what it was)
3  each price: there already, refused because it would change something, or inserted
4  audit                          crash anywhere: nothing happened; the file may be applied again
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

from psycopg.types.json import Jsonb

from services.invoicer import prices as stored
from services.invoicer.price_entries import PriceEntry, SellerEntry, parse_prices
from services.invoicer.pricing import price_definition
from services.invoicer.pricing.lookup import PriceVersion, version_on
from services.invoicer.tax.gstin import parse_gstin
from shared.audit.append import append
from shared.catalogue.apply import Change
from shared.domain.errors import Usage
from shared.domain.period import Month
from shared.postgres.pool import Connection

_NEW = -1  # stands for the id of a version that is not stored yet


async def apply_prices(
    connection: Connection,
    seller: Mapping[str, Any] | None,
    prices: Sequence[Mapping[str, Any]],
    actor: str,
    name: str = "catalogue file",
) -> list[Change]:
    """Write what is new; idempotent. Organisations and meters must be there (`apply_catalogue` went first).

    Raises Usage, naming the place in the file `name`, for what is wrong or would change a version, or a day
    that an invoice covers.
    """
    file = parse_prices(seller, prices, name)
    await stored.lock_for_adding(connection)
    changes = []
    if file.seller is not None:
        changes.append(await _seller(connection, file.seller, name))
    for number, entry in enumerate(file.prices):
        changes.append(await _price(connection, entry, f"{name}: prices.{number}"))
    for change in changes:
        if change.outcome != "exists":
            await append(
                connection,
                actor=actor,
                action=f"{change.kind}.{change.outcome}",
                object_kind=change.kind,
                object_id=change.id,
            )
    return changes


async def _seller(connection: Connection, entry: SellerEntry, name: str) -> Change:
    wanted = (entry.name, entry.gstin, parse_gstin(entry.gstin).state.code, entry.address, entry.series)
    found = await (
        await connection.execute("SELECT name, gstin, state_code, address, series FROM billing.seller")
    ).fetchone()
    if found == wanted:
        return Change("seller", entry.gstin, "exists")
    used = await (
        await connection.execute(
            "SELECT gstin FROM billing.number_series WHERE series = %s AND gstin <> %s LIMIT 1",
            (entry.series, entry.gstin),
        )
    ).fetchone()
    if used is not None:
        # Numbers are unique per GSTIN by law; people look them up without one, so they are unique here.
        raise Usage(f"{name}: seller.series: {entry.series} has numbers of GSTIN {used[0]}; choose another series")
    await connection.execute(
        """
        INSERT INTO billing.seller (name, gstin, state_code, address, series) VALUES (%s, %s, %s, %s, %s)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, gstin = excluded.gstin,
            state_code = excluded.state_code, address = excluded.address, series = excluded.series,
            updated_at = now()
        """,
        wanted,
    )
    return Change("seller", entry.gstin, "changed" if found else "created")


async def _price(connection: Connection, entry: PriceEntry, place: str) -> Change:
    await _check_catalogue(connection, entry, place)
    new = PriceVersion(
        _NEW,
        entry.item,
        entry.organisation,
        entry.valid_from,
        entry.currency,
        entry.price(),
        entry.description,
        entry.sac,
    )
    known = await stored.versions_of_item(connection, entry.item)
    siblings = [version for version in known if version.organisation_id == new.organisation_id]
    label = f"{entry.item}/{entry.organisation or 'default'}/{entry.valid_from}"
    for version in siblings:
        if version.valid_from == new.valid_from:
            if replace(version, id=_NEW) == new:
                return Change("price", label, "exists")
            raise Usage(
                f"{place}: the price of {entry.item} from {entry.valid_from} is stored with other content, and a "
                "version never changes; add a version with a later valid_from"
            )
        if version.currency != new.currency:
            raise Usage(f"{place}.currency: {entry.item} is priced in {version.currency}; it cannot change")
    await _check_invoices(connection, new, known, place)
    model, definition = price_definition(new.price)
    await connection.execute(
        """
        INSERT INTO billing.price (item, organisation_id, valid_from, currency, model, definition, description, sac)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            new.item,
            new.organisation_id,
            new.valid_from,
            new.currency,
            model,
            Jsonb(definition),
            new.description,
            new.sac,
        ),
    )
    return Change("price", label, "created")


async def _check_catalogue(connection: Connection, entry: PriceEntry, place: str) -> None:
    if entry.meter is not None:
        found = await (
            await connection.execute(
                "SELECT billable FROM catalogue.meter WHERE id = %s ORDER BY version DESC LIMIT 1", (entry.meter,)
            )
        ).fetchone()
        if found is None:
            raise Usage(f"{place}.meter: there is no meter {entry.meter}; add it to the file")
        if not found[0]:
            raise Usage(f"{place}.meter: {entry.meter} is informational (billable: false) and cannot have a price")
    if entry.organisation is not None:
        found = await (
            await connection.execute("SELECT currency FROM catalogue.organisation WHERE id = %s", (entry.organisation,))
        ).fetchone()
        if found is None:
            raise Usage(f"{place}.organisation: there is no organisation {entry.organisation}; add it to the file")
        if found[0] != entry.currency:
            raise Usage(f"{place}.currency: {entry.organisation} is billed in {found[0]}, not {entry.currency}")


async def _check_invoices(connection: Connection, new: PriceVersion, known: Sequence[PriceVersion], place: str) -> None:
    """Raises Usage when a day that an invoice covers would get another price; one without a price may be filled."""
    rows = await (
        await connection.execute(
            """
            SELECT organisation_id, year, month, coalesce(number, 'a draft') FROM billing.invoice
            WHERE state <> 'cancelled' AND (%(organisation)s::text IS NULL OR organisation_id = %(organisation)s)
              AND make_date(year, month, 1) + interval '1 month' > %(valid_from)s::date
            """,
            {"organisation": new.organisation_id, "valid_from": new.valid_from},
        )
    ).fetchall()
    for organisation_id, year, month, number in rows:
        for day in _days(Month(year, month)):
            before = version_on(day, known, new.item, organisation_id)
            if before is not None and version_on(day, [*known, new], new.item, organisation_id) != before:
                raise Usage(
                    f"{place}.valid_from: {number} bills {organisation_id} for {year}-{month:02}, and the price of "
                    f"{day} would change; start the new version after {Month(year, month).last_day}"
                )


def _days(month: Month) -> list[date]:
    return [date(month.year, month.month, day) for day in range(1, month.days + 1)]
