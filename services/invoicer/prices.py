"""Stored prices: reading them, and the lock between whoever reads them for an invoice and whoever adds one."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg.rows import TupleRow

from services.invoicer.pricing import parse_price
from services.invoicer.pricing.lookup import PriceVersion
from shared.postgres.pool import Connection

_LOCK = 0x6B7072696365  # "kprice"


async def lock_for_reading(connection: Connection) -> None:
    """Until the end of the transaction no price is added: what a draft froze is what is in force."""
    await connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", (_LOCK,))


async def lock_for_adding(connection: Connection) -> None:
    """Wait for the drafts in flight, so that they count as invoices that cover their days."""
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))


async def read_versions(connection: Connection, organisation_id: str | None) -> list[PriceVersion]:
    """Every version of the defaults and, unless None, of the organisation's own prices."""
    rows = await (
        await connection.execute(
            """
            SELECT id, item, organisation_id, valid_from, currency, model, definition, description, sac
            FROM billing.price WHERE organisation_id IS NULL OR organisation_id = %s
            ORDER BY item, organisation_id, valid_from
            """,
            (organisation_id,),
        )
    ).fetchall()
    return [_version(row) for row in rows]


async def versions_of_items(connection: Connection, items: Sequence[str]) -> list[PriceVersion]:
    """Every version of these items, of all scopes."""
    rows = await (
        await connection.execute(
            """
            SELECT id, item, organisation_id, valid_from, currency, model, definition, description, sac
            FROM billing.price WHERE item = ANY(%s)
            """,
            (list(items),),
        )
    ).fetchall()
    return [_version(row) for row in rows]


def _version(row: TupleRow) -> PriceVersion:
    id, item, organisation_id, valid_from, currency, model, definition, description, sac = row
    price = parse_price(model, definition)
    return PriceVersion(id, item, organisation_id, valid_from, currency, price, description, sac)
