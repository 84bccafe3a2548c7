"""Apply the seller and the prices of a catalogue file, in the caller's transaction.

1  read what is stored and check the file against it; when nothing is new, that is all
2  wait for the drafts in flight; from here to COMMIT no draft begins to read prices
3  read and check again, now against what cannot change any more, and against the days that invoices cover
4  the seller: changed in place (every invoice has its own copy of what it was); new prices; audit
                                  crash anywhere: nothing happened; the file may be applied again

A price that is there already stays for ever, so what 1 finds needs no lock; under the lock there are a few
statements whatever the file's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from psycopg.types.json import Jsonb

from services.invoicer.price_entries import PriceEntry, PriceFile, SellerEntry, parse_prices
from services.invoicer.prices import lock_for_adding, versions_of_items
from services.invoicer.pricing import price_definition
from services.invoicer.pricing.lookup import PriceVersion, version_on
from services.invoicer.tax.gstin import parse_gstin
from shared.audit.append import append
from shared.catalogue.apply import Change
from shared.domain.errors import Usage
from shared.domain.period import Month
from shared.postgres.pool import Connection

_NEW = -1  # stands for the id of a version that is not stored yet


@dataclass(frozen=True, slots=True)
class _Stored:
    """What the database has of everything that a file names."""

    seller: tuple[str, str, str, str, str] | None
    billable: Mapping[str, bool]  # by meter
    currencies: Mapping[str, str]  # by organisation
    versions: Mapping[str, Sequence[PriceVersion]]  # by item, of all scopes


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
    stored = await _read(connection, file)
    new = _new_versions(file, stored, name)
    if new or _is_news(file.seller, stored):
        await lock_for_adding(connection)
        stored = await _read(connection, file)
        new = _new_versions(file, stored, name)
        await _check_invoices(connection, new, stored, name)
        if file.seller is not None and _is_news(file.seller, stored):
            await _write_seller(connection, file.seller, name)
        await _write_prices(connection, list(new.values()))
    changes = [
        Change("price", _label(entry), "created" if number in new else "exists")
        for number, entry in enumerate(file.prices)
    ]
    if file.seller is not None:
        outcome = "exists" if not _is_news(file.seller, stored) else "changed" if stored.seller else "created"
        changes.insert(0, Change("seller", file.seller.gstin, outcome))
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


async def _read(connection: Connection, file: PriceFile) -> _Stored:
    seller = await (
        await connection.execute("SELECT name, gstin, state_code, address, series FROM billing.seller")
    ).fetchone()
    billable = await (
        await connection.execute(
            "SELECT DISTINCT ON (id) id, billable FROM catalogue.meter WHERE id = ANY(%s) ORDER BY id, version DESC",
            ([entry.meter for entry in file.prices if entry.meter is not None],),
        )
    ).fetchall()
    currencies = await (
        await connection.execute(
            "SELECT id, currency FROM catalogue.organisation WHERE id = ANY(%s)",
            ([entry.organisation for entry in file.prices if entry.organisation is not None],),
        )
    ).fetchall()
    versions: dict[str, list[PriceVersion]] = {}
    for version in await versions_of_items(connection, [entry.item for entry in file.prices]):
        versions.setdefault(version.item, []).append(version)
    return _Stored(seller, dict(billable), dict(currencies), versions)


def _is_news(entry: SellerEntry | None, stored: _Stored) -> bool:
    return entry is not None and stored.seller != _seller_row(entry)


def _seller_row(entry: SellerEntry) -> tuple[str, str, str, str, str]:
    return entry.name, entry.gstin, parse_gstin(entry.gstin).state.code, entry.address, entry.series


def _new_versions(file: PriceFile, stored: _Stored, name: str) -> dict[int, PriceVersion]:
    """The prices that are not stored yet, by their place in the file. Pure. Raises Usage."""
    new: dict[int, PriceVersion] = {}
    for number, entry in enumerate(file.prices):
        place = f"{name}: prices.{number}"
        _check_catalogue(entry, stored, place)
        version = _version(entry)
        siblings = [
            known
            for known in (*stored.versions.get(entry.item, ()), *new.values())
            if (known.item, known.organisation_id) == (version.item, version.organisation_id)
        ]
        same_day = [known for known in siblings if known.valid_from == version.valid_from]
        if any(replace(known, id=_NEW) != version for known in same_day):
            raise Usage(
                f"{place}: the price of {entry.item} from {entry.valid_from} is stored with other content, and a "
                "version never changes; add a version with a later valid_from"
            )
        for known in siblings:
            if known.currency != version.currency:
                raise Usage(f"{place}.currency: {entry.item} is priced in {known.currency}; it cannot change")
        if not same_day:
            new[number] = version
    return new


def _version(entry: PriceEntry) -> PriceVersion:
    return PriceVersion(
        _NEW,
        entry.item,
        entry.organisation,
        entry.valid_from,
        entry.currency,
        entry.price(),
        entry.description,
        entry.sac,
    )


def _label(entry: PriceEntry) -> str:
    return f"{entry.item}/{entry.organisation or 'default'}/{entry.valid_from}"


def _check_catalogue(entry: PriceEntry, stored: _Stored, place: str) -> None:
    if entry.meter is not None:
        if entry.meter not in stored.billable:
            raise Usage(f"{place}.meter: there is no meter {entry.meter}; add it to the file")
        if not stored.billable[entry.meter]:
            raise Usage(f"{place}.meter: {entry.meter} is informational (billable: false) and cannot have a price")
    if entry.organisation is not None:
        currency = stored.currencies.get(entry.organisation)
        if currency is None:
            raise Usage(f"{place}.organisation: there is no organisation {entry.organisation}; add it to the file")
        if currency != entry.currency:
            raise Usage(f"{place}.currency: {entry.organisation} is billed in {currency}, not {entry.currency}")


async def _check_invoices(connection: Connection, new: Mapping[int, PriceVersion], stored: _Stored, name: str) -> None:
    """Raises Usage when a day that an invoice covers would get another price; one without a price may be filled."""
    known = [version for versions in stored.versions.values() for version in versions]
    for number, version in new.items():
        of_item = [other for other in known if other.item == version.item]
        known.append(version)
        if not of_item:
            continue  # it changes no price: there is none
        for organisation_id, month, label in await _invoices(connection, version, of_item):
            for day in _days(month):
                before = version_on(day, of_item, version.item, organisation_id)
                if before and version_on(day, [*of_item, version], version.item, organisation_id) != before:
                    raise Usage(
                        f"{name}: prices.{number}.valid_from: {label} bills {organisation_id} for {month}, and the "
                        f"price of {day} would change; start the new version after {month.last_day}"
                    )


async def _invoices(
    connection: Connection, version: PriceVersion, known: Sequence[PriceVersion]
) -> list[tuple[str, Month, str]]:
    """(organisation, month, number) of the invoices over days that the new version would hold on."""
    later = [
        other.valid_from
        for other in known
        if other.organisation_id == version.organisation_id and other.valid_from > version.valid_from
    ]
    rows = await (
        await connection.execute(
            """
            SELECT organisation_id, year, month, coalesce(number, 'a draft') FROM billing.invoice
            WHERE state <> 'cancelled' AND (%(organisation)s::text IS NULL OR organisation_id = %(organisation)s)
              AND make_date(year, month, 1) + interval '1 month' > %(valid_from)s::date
              AND (%(until)s::date IS NULL OR make_date(year, month, 1) < %(until)s::date)
            """,
            {
                "organisation": version.organisation_id,
                "valid_from": version.valid_from,
                "until": min(later, default=None),
            },
        )
    ).fetchall()
    return [(organisation_id, Month(year, month), label) for organisation_id, year, month, label in rows]


async def _write_seller(connection: Connection, entry: SellerEntry, name: str) -> None:
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
        _seller_row(entry),
    )


async def _write_prices(connection: Connection, versions: Sequence[PriceVersion]) -> None:
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            INSERT INTO billing.price
                (item, organisation_id, valid_from, currency, model, definition, description, sac)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (
                    version.item,
                    version.organisation_id,
                    version.valid_from,
                    version.currency,
                    model,
                    Jsonb(definition),
                    version.description,
                    version.sac,
                )
                for version in versions
                for model, definition in [price_definition(version.price)]
            ],
        )


def _days(month: Month) -> list[date]:
    return [date(month.year, month.month, day) for day in range(1, month.days + 1)]
