"""Verifying finds whatever was changed behind the invoice's back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from services.invoicer.self_check import OWED
from services.invoicer.verify import VerifyReport, verify
from shared.domain.errors import Usage
from tests.conftest import Parts
from tests.support.billing import PRICES, World, billing, organisation


async def verified(world: World) -> list[VerifyReport]:
    return await verify(world.database, "test")


def tamper(world: World, table: str, statement: str) -> None:
    """What only somebody with every right can do: switch the guards off first."""
    with world.owner() as owner:
        owner.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER".encode())
        owner.execute(statement.encode())
        owner.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER".encode())


async def test_untouched_invoices_are_rebuilt_byte_for_byte(parts: Parts) -> None:
    prices = [
        *PRICES,
        PRICES[0] | {"valid_from": "2025-10-16", "per_unit": {"amount": "33.333333333333", "per": 7}},
        {"flat": "fee", "organisation": "zenith", "monthly": {"amount": "999.00"}, "description": "Fee"},
    ]
    customers = [organisation("acme"), organisation("zenith", time_zone="America/New_York")]
    async with billing(parts, *customers, prices=prices) as world:
        for customer in ("acme", "zenith"):
            await world.plant(customer, "12.500", 7, datetime(2025, 10, 1, 4, 0, tzinfo=UTC))
            await world.plant(customer, "1E+2", 7, datetime(2025, 10, 31, 18, 29, tzinfo=UTC))
            await world.plant(customer, 5, 7, datetime(2025, 11, 1, 0, 0, tzinfo=UTC))  # November in India alone
        await world.close()
        await world.plant("acme", 1, 1)  # after the cut: not this invoice's
        await world.prices([PRICES[0] | {"valid_from": "2025-11-01"}])  # later prices change nothing

        assert await verified(world) == [
            VerifyReport("KH/25-26/000001", "zenith", True, ()),
            VerifyReport("KH/25-26/000002", "acme", True, ()),
        ]
        with pytest.raises(Usage, match="no finalized invoice KH/25-26/000003"):
            await verify(world.database, "test", numbers=["KH/25-26/000003"])


async def test_usage_whose_window_was_lost_before_the_close_is_found(parts: Parts) -> None:
    async with billing(parts) as world:
        await world.plant("acme", 1_000_000, 500)
        with world.owner() as owner:
            owner.execute("DELETE FROM usage.window WHERE meter_id = 'generated'")
            owner.execute("UPDATE usage.window SET sum = sum - 1 WHERE meter_id = 'context'")
        await world.close()
        [report] = await verified(world)
        assert not report.equal
        assert report.difference[0] == (
            "meter generated has usage of 500 (1 events) on 2025-10-15, which no line covers"
        )
        assert 'lines.0.quantity: stored "999999", rebuilt "1000000"' in report.difference
        assert await world.rows("SELECT class, object_id FROM billing.case") == [("invoice_drift", report.number)]


# Rows that others refer to are put back in place.
RESTORE = {
    "usage.cut": "UPDATE usage.cut SET offsets = kept.offsets FROM public.kept WHERE kept.id = cut.id",
    "billing.invoice": """
        UPDATE billing.invoice SET tax_minor = kept.tax_minor, total_minor = kept.total_minor, content = kept.content,
            content_text = kept.content_text, content_sha256 = kept.content_sha256 FROM public.kept
    """,
}

# Every number mended but the price itself: 250.00 -> 500.00 per million, doubled down to the ledger.
_DOUBLED = """replace(replace(replace(replace(content_text, '"unit_amount":"250', '"unit_amount":"500'),
    '"amount_minor":25000', '"amount_minor":50000'), '"exact_amount":"250', '"exact_amount":"500'),
    '"subtotal_minor":25000', '"subtotal_minor":50000')"""


def forged(changes: str) -> str:
    """The stored document with `changes` (an SQL expression over content_text) made, its hash mended."""
    return (
        "UPDATE billing.invoice SET content_text = t, content = t::jsonb, content_sha256 = sha256(t::bytea) FROM "  # noqa: S608
        f"(SELECT {changes} AS t FROM billing.invoice) AS forged"
    )


TAMPERED: list[tuple[str, str, str]] = [
    (
        "usage.segment",
        "UPDATE usage.segment SET payload = set_byte(payload, 40, (get_byte(payload, 40) + 1) % 256)",
        "a segment of",
    ),
    ("usage.segment", "DELETE FROM usage.segment", "lines.0.quantity: stored"),
    (
        "usage.segment",
        "UPDATE usage.segment SET dispositions = 'd'",
        'lines.0.quantity: stored "1000000", rebuilt "0"',
    ),
    (
        "billing.invoice",
        "UPDATE billing.invoice SET total_minor = total_minor + 1, tax_minor = tax_minor + 1",
        "columns: total_minor: stored 29501, rebuilt 29500",
    ),
    (
        "billing.invoice",
        "UPDATE billing.invoice SET content_text = replace(content_text, '\"amount_minor\":25000', "
        "'\"amount_minor\":25001')",
        "the content does not have the hash",
    ),
    (
        "billing.invoice",
        # A forger who mends the hash as well is found by counting and pricing again.
        forged("""replace(content_text, '"quantity":"1000000"', '"quantity":"1000001"')"""),
        'lines.0.quantity: stored "1000001", rebuilt "1000000"',
    ),
    (
        "billing.invoice",
        forged(_DOUBLED),
        '.price.definition.unit_amount: stored "500.00", rebuilt "250.00"',
    ),
    (
        "billing.invoice",
        "UPDATE billing.invoice SET content_text = '{}', content = '{}', content_sha256 = sha256('{}')",
        "the stored content is not a document",
    ),
    (
        "billing.invoice",
        forged("""replace(content_text, '"aggregation":"sum"', '"aggregation":"max"')"""),
        'meter context version 1.aggregation: stored "max", rebuilt "sum"',
    ),
    (
        "usage.cut",
        "UPDATE usage.cut SET offsets = '{}'",
        "cut.",
    ),
    (
        "billing.invoice_line",
        "UPDATE billing.invoice_line SET amount_minor = 1 WHERE position = 1",
        "invoice_line.0.1: stored 1, rebuilt 25000",
    ),
    ("billing.invoice_tax", "DELETE FROM billing.invoice_tax WHERE head = 'SGST'", "invoice_tax: stored"),
    (
        "ledger.entry",
        "UPDATE ledger.entry SET amount_minor = 1 WHERE account = 'receivable'",
        "ledger.0.1: stored 1, rebuilt 29500",
    ),
]


async def test_whatever_is_changed_is_found_and_named(parts: Parts) -> None:
    async with billing(parts) as world:
        await world.plant("acme", 1_000_000, 0)
        await world.close()
        assert [report.equal for report in await verified(world)] == [True]
        for table, statement, expected in TAMPERED:
            with world.owner() as owner:
                owner.execute(f"CREATE TABLE public.kept AS SELECT * FROM {table}".encode())  # noqa: S608
            tamper(world, table, statement)

            [report] = await verified(world)
            assert not report.equal, statement
            assert any(expected in difference for difference in report.difference), (statement, report.difference)

            put_back = f"DELETE FROM {table}; INSERT INTO {table} TABLE public.kept"  # noqa: S608
            tamper(world, table, RESTORE.get(table, put_back))
            with world.owner() as owner:
                owner.execute("DROP TABLE public.kept")
            assert [report.equal for report in await verified(world)] == [True], statement


# What a forger changes so that the document agrees with itself, its parts and the ledger, and what verify says.
TERMS = [
    (
        "another organisation's price of the same content",
        """UPDATE billing.invoice_line SET price_id = 3 WHERE price_id = 1""",
        """replace(content_text, '"id":1,"model"', '"id":3,"model"')""",
        "meter:context version 1 from 2025-10-01 to 2025-10-31.price.id: stored 3, rebuilt 1",
    ),
    (
        "another rate, by the paisa that it is over nothing",
        "SELECT 1",
        """replace(content_text, '"18","item":"meter:generated"', '"5","item":"meter:generated"')""",
        'meter:generated version 1 from 2025-10-01 to 2025-10-31.price.gst_rate: stored "5", rebuilt "18"',
    ),
]


async def test_terms_are_those_in_force_and_not_those_the_document_says(parts: Parts) -> None:
    prices = [*PRICES, PRICES[0] | {"organisation": "zenith"}]
    async with billing(parts, organisation("acme"), organisation("zenith"), prices=prices) as world:
        await world.plant("acme", 1_000_000, 0)
        await world.close(["acme"])
        assert [report.equal for report in await verified(world)] == [True]
        kept = (await world.rows("SELECT content_text FROM billing.invoice"))[0][0]
        for what, parts_statement, changes, expected in TERMS:
            tamper(world, "billing.invoice_line", parts_statement)
            tamper(world, "billing.invoice", forged(changes))
            assert (await world.rows("SELECT content_text FROM billing.invoice"))[0][0] != kept, what

            [report] = await verified(world)

            assert not report.equal, what
            assert expected in report.difference, (what, report.difference)
            quoted = kept.replace("'", "''")
            tamper(world, "billing.invoice", forged(f"'{quoted}'::text"))


async def test_a_flat_line_that_is_missing_is_named(parts: Parts) -> None:
    """The document, its lines, taxes and ledger agree; only the price in force knows of the line."""
    async with billing(parts) as world:
        await world.plant("acme", 1_000_000, 0)
        await world.close()
        await world.prices([{"flat": "fee", "monthly": {"amount": "999.00"}, "description": "Fee"}])
        assert [report.equal for report in await verified(world)] == [True]  # it came after the invoice
        tamper(
            world,
            "billing.invoice",
            forged("""regexp_replace(content_text, '"through_id":[0-9]+', '"through_id":3')"""),
        )

        [report] = await verified(world)

        assert report.difference == (
            "flat:fee from 2025-10-01 to 2025-10-31: the price in force asks for this line, but the invoice has none",
        )


async def test_the_ledgers_posting_is_found_by_its_index(parts: Parts) -> None:
    async with billing(parts) as world, world.database.transaction() as connection:
        await connection.execute("SET LOCAL enable_seqscan = off")
        plan = await (await connection.execute("EXPLAIN " + OWED, ("00000000-0000-0000-0000-000000000000",))).fetchall()
        text = "\n".join(row[0] for row in plan)
        assert "Index Scan using posting_kind_object_id_key" in text, text
        assert "object_id = " in text
