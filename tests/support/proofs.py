"""Compare what two demo runs proved."""

from __future__ import annotations

from typing import Any

import psycopg

from tests.support.product import Product

COUNTS = ("accepted", "rejected", "counted", "duplicates", "conflicts", "dead_lettered", "missing")

# What differs between two runs of one seed by design: names made for the run, numbers, cuts, offsets.
VOLATILE = {"number", "issued_on", "cut", "organisation_id", "organisation", "customer", "id", "version", "through_id"}


def totals(proof: dict[str, Any]) -> list[tuple[str, int, str]]:
    return sorted(
        (invoice["organisation"].rpartition("-")[2], invoice["total_minor"], invoice["standing"])
        for invoice in proof["invoices"]
    )


def contents(product: Product, proof: dict[str, Any]) -> dict[str, Any]:
    """Each invoice's frozen content without what belongs to the run alone, by same or other."""
    with psycopg.connect(product.env["DATABASE_URL"]) as connection:
        rows = connection.execute(
            "SELECT organisation_id, content FROM billing.invoice WHERE number = ANY(%s)",
            ([invoice["number"] for invoice in proof["invoices"]],),
        ).fetchall()
    return {organisation.rpartition("-")[2]: stable(content) for organisation, content in rows}


def stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: stable(part)
            for name, part in value.items()
            if name not in VOLATILE and not name.startswith("fingerprint")
        }
    return [stable(part) for part in value] if isinstance(value, list) else value
