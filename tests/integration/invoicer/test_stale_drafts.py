"""A close that died between draft and finalize, and what was applied before the next one."""

from __future__ import annotations

import pytest
from psycopg import errors

from services.invoicer import close
from services.invoicer.close import Outcome, Result
from services.invoicer.draft import draft
from services.invoicer.finalize import StaleDraft, finalize
from services.invoicer.verify import verify
from shared.contracts.topics import INVOICES
from shared.usage.seal import cut_of, seal
from tests.conftest import Parts
from tests.support.billing import OCTOBER, SELLER, World, billing, organisation

FEE = {"flat": "fee", "monthly": {"amount": "999.00"}, "description": "Fee"}


async def drafted(world: World, *organisations: str) -> list[str]:
    """What a close leaves that dies after its drafts; returns their ids."""
    group, found = world.parts.kafka.names.group("aggregator"), []
    async with world.database.transaction() as connection:
        await seal(connection, group, world.parts.kafka.names.prefix + "usage.events.v1", OCTOBER, organisations)
    for name in organisations:
        async with world.database.transaction() as connection:
            cut = await cut_of(connection, name, OCTOBER)
            assert cut is not None
            made = await draft(connection, name, OCTOBER, cut, "test")
            assert made is not None
            found.append(made.invoice_id)
    return found


async def test_a_flat_price_added_between_draft_and_finalize_is_billed(parts: Parts) -> None:
    async with billing(parts) as world:
        await world.plant("acme", 1_000_000, 0)
        [old] = await drafted(world, "acme")
        await world.prices([FEE])
        with pytest.raises(StaleDraft):
            async with world.database.transaction() as connection:
                topic = parts.kafka.names.topic(INVOICES)
                await finalize(connection, old, topic, "test", world.deps.database_clock)

        report = await world.close()

        # (250.00 + 999.00) x 1.18
        assert report.outcomes == (Outcome("acme", Result.FINALIZED, "KH/25-26/000001", "INR", 147_382),)
        assert await world.rows("SELECT state FROM billing.invoice ORDER BY (id::text = %s) DESC", old) == [
            ("cancelled",),
            ("finalized",),
        ]
        assert [one.equal for one in await verify(world.database, "test")] == [True]
        assert (await world.close()).outcomes[0].result is Result.REPLAYED


async def test_a_draft_left_alone_is_finalized_as_it_is(parts: Parts) -> None:
    async with billing(parts) as world:
        await world.plant("acme", 1_000_000, 0)
        [old] = await drafted(world, "acme")
        await world.close()
        assert await world.rows("SELECT id::text, state FROM billing.invoice") == [(old, "finalized")]


async def test_a_seller_that_moved_since_the_draft_issues_the_invoice(parts: Parts) -> None:
    async with billing(parts, organisation("acme"), organisation("zenith")) as world:
        await world.plant("acme", 1_000_000, 0)
        await world.plant("zenith", 1_000_000, 0)
        await drafted(world, "acme", "zenith")
        await world.prices([], SELLER | {"gstin": "27AAPFU0939F1ZV"})  # the series is unused yet

        report = await world.close()

        assert [outcome.number for outcome in report.outcomes] == ["KH/25-26/000001", "KH/25-26/000002"]
        assert await world.rows(
            "SELECT DISTINCT content->'seller'->>'gstin' FROM billing.invoice WHERE number <> ''"
        ) == [("27AAPFU0939F1ZV",)]


async def test_a_number_that_is_taken_parks_its_organisation_alone(parts: Parts) -> None:
    async with billing(parts, organisation("acme"), organisation("zenith")) as world:
        await world.plant("acme", 1_000_000, 0)
        await world.close(["acme"])
        with world.owner() as owner:
            owner.execute("DELETE FROM billing.number_series")  # as after a restore that went wrong
        await world.plant("zenith", 1_000_000, 0)

        acme, zenith = (await world.close()).outcomes

        assert acme.result is Result.REPLAYED
        assert zenith.problem is not None and zenith.problem.startswith("number_taken: KH/25-26/000001")
        assert await world.rows("SELECT class, object_id FROM billing.case") == [("number_taken", "zenith/2025-10")]


async def test_an_error_nobody_thought_of_parks_its_organisation_and_a_bug_stops_the_close(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with billing(parts, organisation("acme"), organisation("zenith")) as world:
        await world.plant("zenith", 1_000_000, 0)
        await world.prices([FEE])
        with world.owner() as owner:
            owner.execute(
                "ALTER TABLE billing.invoice_line ADD CONSTRAINT odd EXCLUDE (description WITH =) "
                "WHERE (item = 'flat:fee')"
            )

        acme, zenith = (await world.close()).outcomes

        assert acme.result is Result.FINALIZED
        assert zenith.result is Result.PARKED
        assert zenith.problem is not None and zenith.problem.startswith("unexpected_error: ExclusionViolation: ")
        assert await world.rows("SELECT class, object_id FROM billing.case") == [("unexpected_error", "zenith/2025-10")]

        async def broken(*_: object) -> None:
            raise errors.UndefinedColumn("column does not exist")

        monkeypatch.setattr(close, "draft", broken)
        with pytest.raises(errors.UndefinedColumn):
            await world.close()
