"""Invoices of months whose events were corrected: what stood at the seal is billed, and verifies for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.aggregator.corrections.dirty import clean_some
from services.invoicer.verify import verify
from shared.contracts.topics import USAGE_EVENTS
from shared.domain.errors import Retryable
from tests.conftest import Parts
from tests.support.billing import METERS, OCTOBER, PRICES, World, billing

LARGEST = {
    "id": "largest",
    "event_type": "llm.request",
    "aggregation": "max",
    "value_path": "context",
    "unit": "token",
}
PRICED = [*PRICES, {"meter": "largest", "per_unit": {"amount": "2.00"}, "description": "Largest request"}]
FILTERED = METERS[1] | {"filters": [{"path": "ok", "operator": "exists"}]}


async def void(world: World, target: str, **more: Any) -> None:
    await world.apply([await world.produce("acme", {"target": {"id": target}}, type="khata.usage.void", **more)])


async def amend(world: World, target: str, data: dict[str, Any]) -> None:
    said = {"target": {"id": target}, "data": data}
    await world.apply([await world.produce("acme", said, type="khata.usage.amend")])


async def event(world: World, id: str, context: int, **more: Any) -> None:
    data = {"context": context, "generated": 1_000} | more
    await world.apply([await world.produce("acme", data, id=id)])


async def clean(world: World) -> None:
    names = world.parts.kafka.names
    while (
        await clean_some(world._aggregator.database, names.topic(USAGE_EVENTS), names.group("aggregator")) is not None
    ):
        pass


async def total(world: World) -> int:
    [(minor,)] = await world.rows("SELECT subtotal_minor FROM billing.invoice WHERE state = 'finalized'")
    return int(minor)


async def verifies(world: World) -> None:
    [report] = await verify(world.database, "test")
    assert report.equal, report.difference


async def test_what_stood_at_the_seal_is_billed_and_what_is_corrected_after_it_changes_nothing_of_it(
    parts: Parts,
) -> None:
    meters = [METERS[0], FILTERED, METERS[2], LARGEST]
    async with billing(parts, meters=meters, prices=PRICED) as world:
        await event(world, "1", 4_000_000)
        await event(world, "2", 2_000_000, ok=True)
        await event(world, "3", 1_000_000)
        await void(world, "1")
        await amend(world, "3", {"context": 1_500_000, "generated": 2_000_000, "ok": True})
        await amend(world, "gone", {"context": 1})  # waits for an event that never comes
        await clean(world)
        await world.close()
        # 3,500,000 at 250.00 a million; 2,001,000 at 1000.00 a million; the largest at 2.00 each
        assert await total(world) == 87_500 + 200_100 + 400_000_000
        await verifies(world)

        await void(world, "2")
        await amend(world, "3", {"context": 9, "generated": 9, "ok": True})
        await verifies(world)
        assert await world.rows("SELECT count(*) FROM usage.adjustment") == [(4 + 2 * 3,)]  # of four meters; of three


async def test_a_correction_that_says_it_was_applied_to_the_month_but_came_after_its_cut_is_found(parts: Parts) -> None:
    async with billing(parts) as world:
        await event(world, "1", 4_000_000)
        await world.close()
        await void(world, "1")
        with world.owner() as owner:
            owner.execute("UPDATE usage.correction SET applied_as = 'window'")
        [report] = await verify(world.database, "test")
        assert not report.equal
        assert any("after its cut" in line for line in report.difference)


async def test_a_correction_of_an_event_that_no_meter_counted_is_none_of_a_closed_month(parts: Parts) -> None:
    async with billing(parts) as world:
        await event(world, "1", 4_000_000)
        clip = await world.produce("acme", {"length": 7}, type="clip.made", unmetered=True, id="clip")
        await world.apply([clip])
        await world.close()
        await void(world, "clip")
        assert await world.rows("SELECT state, applied_as FROM usage.correction") == [("applied", "nothing")]
        await verifies(world)


async def test_the_close_waits_for_dirty_windows_and_says_what_to_look_at(parts: Parts) -> None:
    async with billing(parts, meters=[*METERS, LARGEST], prices=PRICED, wait_s=0.5) as world:
        await event(world, "1", 4_000_000)
        await event(world, "2", 1_000_000)
        await void(world, "1")
        with pytest.raises(
            Retryable, match=r"1 windows of 2025-10 \(acme\) wait .* Nothing was sealed.*khata run aggreg"
        ):
            await world.close()
        assert await world.rows("SELECT 1 FROM usage.seal") == []
        closing = asyncio.create_task(world.close())
        await clean(world)
        await closing
        assert await total(world) == 25_000 + 100 + 200_000_000
        await verifies(world)
        assert str(OCTOBER) == "2025-10"
