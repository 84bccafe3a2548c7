"""Invoices of meters of every aggregation: the line's quantity, and that counting again from segments agrees."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from services.invoicer.verify import verify
from shared.domain.meter import AGGREGATIONS
from tests.conftest import Parts
from tests.support.billing import NOON, OCTOBER, billing
from tests.support.catalogue import apply_document

START = datetime.fromisoformat("2025-10-01T00:00:00+05:30")
METERS: list[dict[str, Any]] = [
    {
        "id": aggregation,
        "event_type": "llm.request",
        "aggregation": aggregation,
        "clamp": {"max": 1000} if aggregation not in ("count", "unique_count") else None,
        **({} if aggregation == "count" else {"value_path": "user" if aggregation == "unique_count" else "v"}),
        "filters": [{"path": "kept", "operator": "in", "values": [True]}],
    }
    for aggregation in AGGREGATIONS
]
PRICES = [{"meter": meter, "per_unit": {"amount": "2.00"}, "description": meter} for meter in AGGREGATIONS]


def data(v: int, user: str, kept: bool = True) -> dict[str, Any]:
    return {"v": v, "user": user, "kept": kept}


async def test_every_aggregation_is_billed_and_rebuilt_byte_for_byte(parts: Parts) -> None:
    async with billing(parts, prices=PRICES, meters=METERS) as world:
        month = timedelta(days=31)
        sent = [
            (START - timedelta(days=3), data(2, "a")),
            (START + month / 4, data(8, "a")),
            (START + month / 2, data(1, "b")),
            (START + 3 * month / 4, data(5000, "a")),  # taken as 1,000
            (NOON, data(77, "c", kept=False)),
        ]
        await world.apply([await world.produce("acme", content, at) for at, content in sent])
        report = await world.close()
        assert [one.problem for one in report.outcomes] == [None]
        rows = await world.rows("SELECT item, quantity FROM billing.invoice_line WHERE item LIKE 'meter:%%'")
        quantities = {item.removeprefix("meter:"): quantity for item, quantity in rows}
        assert quantities == {
            "count": 3,
            "sum": 1009,
            "min": 1,
            "max": 1000,
            "avg": Decimal("336.333333333333"),
            "latest": 1000,
            "unique_count": 2,
            # 2 all month, 8 from a quarter, 1 from the half, 1,000 for the last quarter
            "weighted_sum": Decimal("258.5"),
        }
        assert [(one.equal, one.difference) for one in await verify(world.database, "test")] == [(True, ())]


async def test_a_level_is_billed_once_where_the_meter_changes_later(parts: Parts) -> None:
    weighted = next(meter for meter in METERS if meter["id"] == "weighted_sum")
    prices = [price for price in PRICES if price["meter"] == "weighted_sum"]
    async with billing(parts, prices=prices, meters=[weighted]) as world:
        await world.apply([await world.produce("acme", data(5, "a"), START - timedelta(days=40))])
        await apply_document(parts, {"meters": [weighted | {"clamp": None, "effective_from": "2099-01-01T00:00:00Z"}]})
        report = await world.close()
        assert [one.problem for one in report.outcomes] == [None]
        rows = await world.rows("SELECT quantity FROM billing.invoice_line WHERE item = 'meter:weighted_sum'")
        assert rows == [(5,)]
        assert [one.difference for one in await verify(world.database, "test")] == [()]


async def test_a_level_without_events_is_billed_and_rebuilt(parts: Parts) -> None:
    weighted = [meter for meter in METERS if meter["id"] == "weighted_sum"]
    prices = [price for price in PRICES if price["meter"] == "weighted_sum"]
    async with billing(parts, prices=prices, meters=weighted) as world:
        await world.apply([await world.produce("acme", data(5, "a"), START - timedelta(days=40))])
        await world.close()
        rows = await world.rows("SELECT quantity FROM billing.invoice_line WHERE item = 'meter:weighted_sum'")
        assert rows == [(5,)]
        assert [one.difference for one in await verify(world.database, "test", month=OCTOBER)] == [()]
        with world.owner() as owner:
            owner.execute("UPDATE usage.window SET sum = sum + 1")
        # What was carried in is frozen in the invoice; the windows of older months are compared by their own.
        assert [one.difference for one in await verify(world.database, "test", month=OCTOBER)] == [()]
