"""Prices and seller of a catalogue file: applied once, never changed, never under a finalized invoice."""

from __future__ import annotations

from typing import Any

import pytest

from services.invoicer import price_file
from services.invoicer.price_file import apply_prices
from services.invoicer.prices import lock_for_adding, lock_for_reading
from shared.domain.errors import DatabaseAway, Usage
from shared.postgres.pool import Connection
from tests.conftest import Parts
from tests.support.billing import PRICES, SELLER, billing, organisation

CONTEXT = PRICES[0]


async def test_applying_a_file_twice_changes_nothing(parts: Parts) -> None:
    async with billing(parts) as world:  # applied once
        before = await world.rows("SELECT * FROM billing.price ORDER BY id")
        assert await world.prices(PRICES, SELLER) == ["exists", "exists", "exists"]
        assert await world.rows("SELECT * FROM billing.price ORDER BY id") == before
        assert await world.rows(
            "SELECT action, object_id FROM audit.entry WHERE object_kind IN ('price', 'seller') ORDER BY id"
        ) == [
            ("seller.created", "29AABCU9603R1ZJ"),
            ("price.created", "meter:context/default/2000-01-01"),
            ("price.created", "meter:generated/default/2000-01-01"),
        ]
        assert await world.prices([], SELLER | {"address": "Mysuru"}) == ["changed"]


WRONG: list[tuple[dict[str, Any], str]] = [
    (CONTEXT | {"meter": "nothing"}, r"prices\.0\.meter: there is no meter nothing"),
    (CONTEXT | {"meter": "requests"}, r"prices\.0\.meter: requests is informational"),
    (CONTEXT | {"organisation": "nobody"}, r"prices\.0\.organisation: there is no organisation nobody"),
    (CONTEXT | {"organisation": "acme", "currency": "USD"}, r"prices\.0\.currency: acme is billed in INR, not USD"),
    (CONTEXT | {"valid_from": "2026-01-01", "currency": "USD"}, r"prices\.0\.currency: .* is priced in INR"),
    (CONTEXT | {"description": "Other"}, r"prices\.0: .* is stored with other content, and a version never changes"),
    (CONTEXT | {"per_unit": {"amount": "250.01", "per": 1_000_000}}, "a version never changes"),
]


async def test_what_contradicts_the_catalogue_or_a_stored_version_is_refused_whole(parts: Parts) -> None:
    async with billing(parts) as world:
        new = {"flat": "fee", "monthly": {"amount": "1"}, "description": "Fee"}
        for wrong, message in WRONG:
            with pytest.raises(Usage, match=message):
                await world.prices([wrong, new])
        with pytest.raises(Usage, match=r"prices\.1"):
            await world.prices([new, WRONG[0][0]])
        assert await world.rows("SELECT count(*) FROM billing.price") == [(2,)]


async def test_a_new_version_never_changes_a_day_that_an_invoice_covers(parts: Parts) -> None:
    async with billing(parts, organisation("acme"), organisation("zenith")) as world:
        await world.plant("acme", 1_000_000, 0)
        await world.close()
        dearer = {"per_unit": {"amount": "500.00", "per": 1_000_000}}
        covered = r"valid_from: KH/25-26/000001 bills acme for 2025-10, and the price of 2025-10-31 would change"
        with pytest.raises(Usage, match=covered):
            await world.prices([CONTEXT | dearer | {"valid_from": "2025-10-31"}])
        with pytest.raises(Usage, match="start the new version after 2025-10-31"):
            await world.prices([CONTEXT | dearer | {"organisation": "acme"}])
        assert await world.prices(
            [
                CONTEXT | dearer | {"valid_from": "2025-11-01"},  # the next month
                CONTEXT | dearer | {"organisation": "zenith", "valid_from": "2025-10-31"},  # without an invoice
                {"flat": "fee", "monthly": {"amount": "1"}, "description": "Fee"},  # days without any price
            ]
        ) == ["created", "created", "created"]


async def test_a_series_of_another_gstin_is_not_continued(parts: Parts) -> None:
    async with billing(parts) as world:
        await world.plant("acme", 1, 1)
        await world.close()
        moved = SELLER | {"gstin": "27AAPFU0939F1ZV"}
        with pytest.raises(Usage, match="KH has numbers of GSTIN 29AABCU9603R1ZJ; choose another series"):
            await world.prices([], moved)
        assert await world.prices([], moved | {"series": "MH"}) == ["changed"]


async def test_a_file_that_changes_nothing_waits_for_no_draft(parts: Parts) -> None:
    async with billing(parts) as world, world.database.transaction() as drafting:
        await lock_for_reading(drafting)
        assert await world.prices(PRICES, SELLER) == ["exists", "exists", "exists"]
        with pytest.raises(DatabaseAway):  # this one is new, so it waits for the draft (4 s, shortened here)
            async with world.database.transaction() as connection:
                await connection.execute("SET LOCAL lock_timeout = '50ms'")
                await apply_prices(connection, None, [CONTEXT | {"valid_from": "2026-01-01"}], "test")


async def test_what_is_under_the_price_lock_does_not_grow_with_the_file(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with billing(parts) as world:
        fees = [{"flat": f"fee{n}", "monthly": {"amount": "1"}, "description": "Fee"} for n in range(40)]
        locked: list[int] = []

        async def lock(connection: Connection) -> None:
            await lock_for_adding(connection)
            execute = connection.execute

            async def counting(*given: Any, **named: Any) -> Any:
                locked.append("audit.entry" not in str(given[0]))
                return await execute(*given, **named)

            monkeypatch.setattr(connection, "execute", counting)

        monkeypatch.setattr(price_file, "lock_for_adding", lock)
        assert await world.prices(fees) == ["created"] * 40
        assert sum(locked) <= 5
