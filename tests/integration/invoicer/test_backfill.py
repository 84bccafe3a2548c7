"""Meters that were back-filled on invoices: billed where the month was open, never where it was sealed before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from services.invoicer.verify import verify
from shared.domain.errors import Retryable
from shared.domain.period import Month
from tests.conftest import Parts
from tests.support import billing as billed
from tests.support.backfill import fill
from tests.support.billing import World, billing
from tests.support.catalogue import apply_document

OCTOBER = Month(2025, 10)
CALLS = {"id": "calls", "event_type": "llm.request", "aggregation": "count", "backfill": True}
SIZES = {"id": "sizes", "event_type": "llm.request", "aggregation": "sum", "value_path": "size", "backfill": True}
CLIPS = {"id": "clips", "event_type": "clip.made", "aggregation": "sum", "value_path": "length", "backfill": True}
PRICES = [
    {"meter": meter, "per_unit": {"amount": "2.00"}, "description": meter} for meter in ("calls", "sizes", "clips")
]


async def lines(world: World, month: Month) -> dict[str, int]:
    rows = await world.rows(
        """
        SELECT item, quantity FROM billing.invoice_line JOIN billing.invoice ON invoice.id = invoice_id
        WHERE (year, month) = (%s, %s) AND item LIKE 'meter:%%'
        """,
        *(month.year, month.month),
    )
    return {item.removeprefix("meter:"): int(quantity) for item, quantity in rows}


async def verified(world: World) -> list[Any]:
    return [one.difference for one in await verify(world.database, "test")]


async def test_an_open_month_is_billed_with_what_was_before_the_meter_once_that_is_counted(parts: Parts) -> None:
    async with billing(parts) as world:
        plain = {"context": 1_000_000, "generated": 0}
        await world.apply(
            [
                await world.produce("acme", plain),  # which sizes refuses
                await world.produce("acme", plain | {"size": 3}),
                await world.produce("acme", {"length": 7}, type="clip.made", unmetered=True),
                await world.produce("acme", {"length": "?"}, type="clip.made", unmetered=True),
                await world.produce("acme", {"length": 50}, type="clip.made", unmetered=True, id="wrong"),
                await world.produce("acme", {"length": 60}, type="clip.made", unmetered=True, id="amended"),
                await world.produce("acme", {"target": {"id": "wrong"}}, type="khata.usage.void"),
                await world.produce(
                    "acme", {"target": {"id": "amended"}, "data": {"length": 6}}, type="khata.usage.amend"
                ),
            ]
        )
        await apply_document(parts, {"meters": [CALLS, SIZES, CLIPS]})
        await world.prices(PRICES)
        await world.apply([await world.produce("acme", plain | {"size": 4})])
        world.deps = replace(world.deps, wait_s=0.5)
        with pytest.raises(Retryable, match="calls, clips, sizes is new and still counts"):
            await world.close()
        assert await world.rows("SELECT count(*) FROM usage.seal") == [(0,)]
        await fill(parts.database_url, world._aggregator.database)
        report = await world.close()
        assert [one.problem for one in report.outcomes] == [None]
        found = await lines(world, OCTOBER)
        assert (found["calls"], found["sizes"], found["clips"]) == (3, 7, 13)
        assert await verified(world) == [()]


async def test_a_month_that_was_sealed_before_the_meter_stays_as_it_was_and_the_next_one_is_billed(
    parts: Parts,
) -> None:
    async with billing(parts) as world:
        await world.plant("acme", 1_000_000, 0)
        await world.close()
        before = await world.rows("SELECT content_sha256 FROM billing.invoice")
        await apply_document(parts, {"meters": [CALLS]})
        await world.prices(PRICES[:1])
        await fill(parts.database_url, world._aggregator.database)
        assert await world.rows("SELECT count FROM usage.window WHERE meter_id = 'calls'") == [(1,)]  # to look at
        assert await verified(world) == [()]
        await world.close()
        assert await world.rows("SELECT content_sha256 FROM billing.invoice") == before
        assert "calls" not in await lines(world, OCTOBER)


async def test_a_month_that_is_sealed_and_not_billed_yet_never_bills_the_new_meter(
    parts: Parts,
) -> None:
    async with billing(parts, prices=[]) as world:
        await world.plant("acme", 1_000_000, 0)
        report = await world.close()  # sealed, and parked: nothing has a price
        assert [one.result.value for one in report.outcomes] == ["parked"]
        await apply_document(parts, {"meters": [CALLS]})
        await fill(parts.database_url, world._aggregator.database)
        await world.prices([*billed.PRICES, *PRICES[:1]])
        report = await world.close()
        assert [one.problem for one in report.outcomes] == [None]
        assert set(await lines(world, OCTOBER)) == {"context", "generated", "requests"}
        assert await verified(world) == [()]
