"""A finalized invoice never changes, whoever tries: the service's role by grants, the owner by triggers."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from tests.conftest import Parts
from tests.support.billing import billing

TAMPERING = [
    "UPDATE billing.invoice SET total_minor = 1, subtotal_minor = 1, tax_minor = 0",
    "UPDATE billing.invoice SET content_text = '{}'",
    "UPDATE billing.invoice SET number = 'KH/25-26/000009'",
    "UPDATE billing.invoice SET issued_on = '2025-01-01'",
    "UPDATE billing.invoice SET state = 'draft', number = NULL, issued_on = NULL",
    "DELETE FROM billing.invoice",
    "TRUNCATE billing.invoice CASCADE",
    "UPDATE billing.invoice_line SET amount_minor = 1",
    "UPDATE billing.invoice_line SET invoice_id = gen_random_uuid()",
    "DELETE FROM billing.invoice_line",
    "TRUNCATE billing.invoice_line",
    "INSERT INTO billing.invoice_tax SELECT id, 'CESS', 1, 1, 1 FROM billing.invoice",
    "UPDATE billing.invoice_tax SET amount_minor = 0",
    "UPDATE billing.price SET definition = '{}'",
    "DELETE FROM billing.price",
    "UPDATE ledger.entry SET amount_minor = 1",
    "DELETE FROM audit.entry",
]


async def test_nobody_changes_a_finalized_invoice_its_prices_or_its_postings(parts: Parts) -> None:
    async with billing(parts) as world:
        await world.plant("acme", 1_000_000, 0)
        await world.close()
        before = await world.rows("SELECT to_jsonb(invoice) FROM billing.invoice")
        for role in (None, "khata_invoicer"):
            with world.owner() as connection:
                if role is not None:
                    connection.execute(f"SET ROLE {role}".encode())
                for statement in TAMPERING:
                    with pytest.raises(errors.InsufficientPrivilege):
                        connection.execute(statement.encode())
                    assert connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
        assert await world.rows("SELECT to_jsonb(invoice) FROM billing.invoice") == before


async def test_one_invoice_stands_for_a_month_and_only_one_that_adds_up_is_finalized(parts: Parts) -> None:
    another = """
        INSERT INTO billing.invoice (id, organisation_id, year, month, state, currency, cut_id, subtotal_minor,
            discount_minor, tax_minor, total_minor, content, content_text, content_sha256, engine_version)
        SELECT gen_random_uuid(), organisation_id, year, month, 'draft', currency, cut_id, 100, 0, 18, 118, '{}', '',
            '', '1' FROM billing.invoice
    """
    async with billing(parts) as world:
        await world.plant("acme", 1_000_000, 0)
        await world.close()
        with world.owner() as owner:
            with pytest.raises(errors.UniqueViolation, match="one_monthly_invoice"):
                owner.execute(another)
            owner.execute("UPDATE billing.invoice SET state = 'cancelled', cancelled_at = now()")
            owner.execute(another)
            with pytest.raises(errors.CheckViolation, match="lines sum to 0 and taxes to 0, but it says 100 and 18"):
                owner.execute(
                    "UPDATE billing.invoice SET state = 'finalized', number = 'KH/25-26/000002', "
                    "issued_on = '2025-11-02' WHERE state = 'draft'"
                )
            with pytest.raises(errors.CheckViolation, match="total_adds_up"):
                owner.execute("UPDATE billing.invoice SET total_minor = 119 WHERE state = 'draft'")
