"""From sealed usage to finalized invoices, on real Kafka and Postgres."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from services.invoicer.close import Deps, Outcome, Result
from services.invoicer.draft import draft
from services.invoicer.read import show_invoice
from shared.contracts.messages.invoice import decode_invoice
from shared.contracts.topics import USAGE_EVENTS, USAGE_RAW
from shared.domain.errors import Rejected, Retryable, Usage
from shared.domain.period import Month
from shared.ledger import store
from shared.postgres.outbox import OutboxMessage
from shared.usage.seal import Cut, cut_of
from tests.conftest import Parts
from tests.support.billing import NOON, OCTOBER, PRICES, always, billing, organisation


async def test_the_llm_month_to_the_paisa_inside_and_outside_the_sellers_state(parts: Parts) -> None:
    async with billing(parts, organisation("acme"), organisation("zenith", gstin="27AAPFU0939F1ZV")) as world:
        for customer in ("acme", "zenith"):
            await world.plant(customer, 18_000_000, 200_000)
            await world.plant(customer, 59_974, 45_896)

        report = await world.close()

        # 18,059,974 x 250 / 1,000,000 = 4514.9935; 245,896 x 1000 / 1,000,000 = 245.896
        assert report.outcomes == (
            Outcome("acme", Result.FINALIZED, "KH/25-26/000001", "INR", 561_785),
            Outcome("zenith", Result.FINALIZED, "KH/25-26/000002", "INR", 561_785),
        )
        async with world.database.connection() as connection:
            acme = await show_invoice(connection, "KH/25-26/000001")
            zenith = await show_invoice(connection, "KH/25-26/000002")
            assert await store.sum_of_everything(connection) == {}
        assert [(line["item"], line["quantity"], line["amount_minor"]) for line in acme.document["lines"]] == [
            ("meter:context", "18059974", 451_499),
            ("meter:generated", "245896", 24_590),
        ]
        assert [(line["item"], line["quantity"]) for line in acme.document["informational"]] == [
            ("meter:requests", "2")
        ]
        assert [(tax["head"], tax["rate"], tax["amount_minor"]) for tax in acme.document["tax"]] == [
            ("CGST", "9", 42_848),
            ("SGST", "9", 42_848),
        ]
        assert [(tax["head"], tax["rate"], tax["amount_minor"]) for tax in zenith.document["tax"]] == [
            ("IGST", "18", 85_696)
        ]
        assert acme.document["amount_in_words"] == (
            "Rupees Five Thousand Six Hundred Seventeen and Eighty-Five Paise Only"
        )
        assert (acme.standing, acme.left_minor) == ("open", 561_785)
        assert acme.document["issued_on"] == "2025-11-02"
        messages = await world.rows(
            "SELECT key, value FROM messaging.outbox WHERE topic LIKE '%%invoices.v1' ORDER BY id"
        )
        assert [(bytes(key), decode_invoice(value).number) for key, value in messages] == [
            (b"acme", "KH/25-26/000001"),
            (b"zenith", "KH/25-26/000002"),
        ]


async def test_closing_again_changes_nothing_and_late_usage_waits_for_another_document(parts: Parts) -> None:
    async with billing(parts) as world:
        await world.plant("acme", 1_000_000, 0)
        first = await world.close()
        before = await world.rows("SELECT content_sha256, finalized_at FROM billing.invoice")

        await world.plant("acme", 5_000_000, 0)  # after the seal
        again = await world.close()

        assert first.outcomes[0].total_minor == 29_500
        assert again.outcomes == (replace(first.outcomes[0], result=Result.REPLAYED),)
        assert await world.rows("SELECT content_sha256, finalized_at FROM billing.invoice") == before
        assert await world.rows("SELECT value FROM usage.adjustment WHERE meter_id = 'context'") == [
            (Decimal(5_000_000),)
        ]
        assert [row[0] for row in await world.rows("SELECT outcome FROM billing.attempt ORDER BY id")] == [
            "created",
            "replayed",
        ]


async def test_an_organisation_without_usage_has_nothing_to_bill(parts: Parts) -> None:
    async with billing(parts) as world:
        report = await world.close()
        assert report.outcomes == (Outcome("acme", Result.NOTHING_TO_BILL),)
        assert await world.rows("SELECT 1 FROM billing.invoice") == []
        async with world.database.connection() as connection:
            assert await cut_of(connection, "acme", OCTOBER) is not None


async def test_a_missing_price_parks_alone_and_is_billed_once_there_is_one(parts: Parts) -> None:
    async with billing(parts, organisation("acme"), organisation("zenith"), prices=PRICES[:1]) as world:
        await world.plant("acme", 1_000_000, 5)
        await world.plant("zenith", 1_000_000, 0)
        await world.prices([PRICES[1] | {"organisation": "zenith"}])

        report = await world.close()

        acme, zenith = report.outcomes
        assert (acme.result, acme.number) == (Result.PARKED, None)
        assert acme.problem is not None and "missing_price: meter:generated of organisation acme" in acme.problem
        assert (zenith.result, zenith.number) == (Result.FINALIZED, "KH/25-26/000001")
        assert await world.rows("SELECT class, object_id FROM billing.case WHERE closed_at IS NULL") == [
            ("missing_price", "acme/2025-10")
        ]

        await world.prices([PRICES[1]])
        acme = (await world.close()).outcomes[0]
        assert (acme.result, acme.number) == (Result.FINALIZED, "KH/25-26/000002")
        assert await world.rows("SELECT 1 FROM billing.case WHERE closed_at IS NULL") == []


async def test_usage_before_the_first_price_is_never_skipped(parts: Parts) -> None:
    prices = [PRICES[0] | {"valid_from": "2025-10-10"}, PRICES[1]]
    async with billing(parts, prices=prices) as world:
        await world.plant("acme", 1, 1, datetime(2025, 10, 9, 18, 29, 59, tzinfo=UTC))  # 9 October in India
        [acme] = (await world.close()).outcomes
        assert acme.problem is not None
        assert "meter:context of organisation acme has no price from 2025-10-01 to 2025-10-09" in acme.problem


async def test_a_price_change_inside_the_month_makes_two_lines_split_by_local_day(parts: Parts) -> None:
    prices = [
        *PRICES,
        PRICES[0] | {"valid_from": "2025-10-16", "per_unit": {"amount": "500.00", "per": 1_000_000}},
        {"flat": "platform_fee", "valid_from": "2025-10-17", "monthly": {"amount": "310.00"}, "description": "Fee"},
    ]
    async with billing(parts, prices=prices) as world:
        await world.plant("acme", 2_000_000, 0, datetime(2025, 10, 15, 18, 29, tzinfo=UTC))  # still the 15th
        await world.plant("acme", 3_000_000, 0, datetime(2025, 10, 15, 18, 30, tzinfo=UTC))  # the 16th

        [acme] = (await world.close()).outcomes

        assert acme.number is not None
        async with world.database.connection() as connection:
            document = (await show_invoice(connection, acme.number)).document
        assert [
            (line["item"], line["first_day"], line["last_day"], line["quantity"], line["amount_minor"])
            for line in document["lines"]
        ] == [
            ("meter:context", "2025-10-01", "2025-10-15", "2000000", 50_000),
            ("meter:context", "2025-10-16", "2025-10-31", "3000000", 150_000),
            ("meter:generated", "2025-10-01", "2025-10-31", "0", 0),
            ("flat:platform_fee", "2025-10-17", "2025-10-31", "1", 15_000),  # 15 of 31 days of 310.00
        ]


async def test_a_month_is_over_when_both_clocks_say_so_where_the_customer_lives(parts: Parts) -> None:
    async with billing(parts) as world:
        last_second = datetime(2025, 10, 31, 18, 29, 59, tzinfo=UTC)  # 23:59:59 in India
        fast = datetime(2026, 10, 31, tzinfo=UTC)
        for here, there in ((last_second, fast), (fast, last_second)):
            world.deps = replace(world.deps, clock=lambda here=here: here, database_clock=always(there))
            with pytest.raises(Usage, match="2025-10 is not over for acme"):
                await world.close()
        with pytest.raises(Usage, match="there is no organisation nobody"):
            await world.close(["acme", "nobody"])
        assert await world.rows("SELECT 1 FROM usage.seal") == []
        over = datetime(2025, 10, 31, 18, 30, tzinfo=UTC)
        world.deps = replace(world.deps, clock=lambda: over, database_clock=always(over))
        assert (await world.close()).outcomes[0].result is Result.NOTHING_TO_BILL


async def test_an_invoice_is_dated_by_the_database_and_not_by_the_operators_machine(parts: Parts) -> None:
    async with billing(parts) as world:
        await world.plant("acme", 1_000_000, 0)
        world.deps = Deps(parts.kafka, world.database, "test", clock=lambda: datetime(2099, 1, 1, tzinfo=UTC))
        await world.close()
        assert await world.rows(
            "SELECT issued_on = (finalized_at AT TIME ZONE 'Asia/Kolkata')::date FROM billing.invoice"
        ) == [(True,)]


async def test_the_same_key_with_other_parameters_is_refused(parts: Parts) -> None:
    async with billing(parts) as world:
        await world.plant("acme", 1, 1)
        await world.close()
        async with world.database.transaction() as connection:
            cut = await cut_of(connection, "acme", OCTOBER)
            assert cut is not None
            with pytest.raises(Rejected) as refused:
                await draft(connection, "acme", OCTOBER, Cut(cut.id + 1, cut.offsets), "test")
        assert refused.value.code == "other_parameters"

        # The same through the front door: a seal that came to name another cut is a case, not another invoice.
        with world.owner() as owner:
            owner.execute(
                "WITH other AS (INSERT INTO usage.cut (epoch_version, offsets) SELECT epoch_version, offsets "
                "FROM usage.cut LIMIT 1 RETURNING id) UPDATE usage.seal SET cut_id = (SELECT id FROM other)"
            )
        [acme] = (await world.close()).outcomes
        assert acme.result is Result.REFUSED
        assert await world.rows("SELECT class FROM billing.case") == [("other_parameters",)]
        assert await world.rows("SELECT count(*) FROM billing.attempt WHERE outcome = 'refused'") == [(1,)]
        assert await world.rows("SELECT count(*) FROM billing.invoice") == [(1,)]


async def test_the_close_waits_for_aggregator_and_kafka_door_and_says_what_lags(parts: Parts) -> None:
    async with billing(parts, wait_s=0.3) as world:
        record = await world.produce("acme", {"context": 1_000_000, "generated": 0})
        topic = parts.kafka.names.topic(USAGE_EVENTS)
        with pytest.raises(Retryable) as late:
            await world.close()
        message = str(late.value)
        assert f"the aggregator lags after 0.3 s: {topic}[{record.partition}] by 1 " in message
        assert "`khata run aggregator`" in message
        assert await world.rows("SELECT 1 FROM usage.seal") == []

        await world.apply([record])
        assert (await world.close()).outcomes[0].total_minor == 29_500

        # A record of a producer on Kafka that no door has read: it may belong to the month.
        raw = parts.kafka.names.topic(USAGE_RAW)
        [(partition, _)] = await world.producer.send([OutboxMessage(raw, b"key", b"{}")])
        with pytest.raises(Retryable, match="the Kafka door lags.*by 1 .*no position yet.*khata run ingest") as late:
            await world.close(month=OCTOBER.previous())
        assert f"{raw}[{partition}]" in str(late.value)


async def test_months_are_closed_in_each_customers_own_time_zone(parts: Parts) -> None:
    customers = [organisation("acme"), organisation("tokyo", time_zone="Asia/Tokyo")]
    async with billing(parts, *customers) as world:
        midnight_in_japan = datetime(2025, 10, 31, 15, 0, tzinfo=UTC)  # still 31 October in India
        for customer in ("acme", "tokyo"):
            await world.plant(customer, 1_000_000, 0, midnight_in_japan)
        by_id = {outcome.organisation_id: outcome for outcome in (await world.close()).outcomes}
        assert by_id["acme"].total_minor == 29_500
        assert by_id["tokyo"].result is Result.NOTHING_TO_BILL

        december = datetime(2025, 12, 1, tzinfo=UTC)
        world.deps = replace(world.deps, clock=lambda: december, database_clock=always(december))
        [tokyo] = (await world.close(["tokyo"], Month(2025, 11))).outcomes
        assert tokyo.total_minor == 29_500


async def test_numbers_follow_the_indian_financial_year_and_dates_never_go_back(parts: Parts) -> None:
    fee = {"flat": "fee", "monthly": {"amount": "100.00"}, "description": "Fee"}
    async with billing(parts, prices=[fee]) as world:
        issued = []
        for month, now in (
            (Month(2025, 10), datetime(2025, 11, 5, tzinfo=UTC)),
            (Month(2025, 9), datetime(2025, 11, 2, tzinfo=UTC)),  # a clock that runs behind
            (Month(2025, 8), datetime(2026, 3, 31, 18, 29, 59, tzinfo=UTC)),  # 31 March in India
            (Month(2025, 7), datetime(2026, 3, 31, 18, 30, tzinfo=UTC)),  # 1 April in India
        ):
            world.deps = replace(world.deps, clock=lambda now=now: now, database_clock=always(now))
            await world.close(month=month)
            [[number, day]] = await world.rows(
                "SELECT number, issued_on::text FROM billing.invoice WHERE month = %s", month.month
            )
            issued.append((number, day))
        assert issued == [
            ("KH/25-26/000001", "2025-11-05"),
            ("KH/25-26/000002", "2025-11-05"),
            ("KH/25-26/000003", "2026-03-31"),
            ("KH/26-27/000001", "2026-04-01"),
        ]


async def test_an_amount_beyond_every_column_parks_its_organisation_alone(parts: Parts) -> None:
    async with billing(parts, organisation("acme"), organisation("zenith")) as world:
        for _ in range(12):
            await world.plant("acme", "9" * 20, 0)
        await world.plant("zenith", 1_000_000, 0)
        acme, zenith = (await world.close()).outcomes
        assert acme.problem is not None and acme.problem.startswith("arithmetic: meter:context comes to")
        assert zenith.total_minor == 29_500


async def test_a_customer_abroad_is_parked_until_exports_are_billed(parts: Parts) -> None:
    abroad = organisation("abroad", country="US", state_code=None)
    async with billing(parts, organisation("acme"), abroad) as world:
        await world.plant("abroad", 1, 1, NOON)
        await world.plant("acme", 1, 1, NOON)
        parked, acme = (await world.close()).outcomes
        assert parked.problem is not None and parked.problem.startswith("export_unsupported: ")
        assert acme.result is Result.FINALIZED
