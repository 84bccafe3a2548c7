"""Finalized invoices become intents; what is no invoice changes nothing."""

from __future__ import annotations

from dataclasses import replace

from tests.integration.payments.conftest import TOTAL_MINOR, Books, Feed


async def test_a_finalized_invoice_is_intended_once_however_often_it_is_told(books: Books, feed: Feed) -> None:
    invoice = await books.finalized_invoice()

    await feed.invoices(invoice.message(), invoice.message())
    await feed.invoices(invoice.message())

    link = await books.link(invoice)
    assert (link["status"], link["amount_minor"], link["currency"]) == ("intended", TOTAL_MINOR, "INR")
    assert len(link["reference_id"]) <= 40
    intents = await books.rows("SELECT kind, key, state, attempts FROM messaging.intent")
    assert intents == [{"kind": "payment_link.create", "key": link["reference_id"], "state": "pending", "attempts": 0}]


async def test_an_invoice_over_nothing_asks_for_no_payment(books: Books, feed: Feed) -> None:
    invoice = await books.finalized_invoice()

    await feed.invoices(replace(invoice, total_minor=0).message())

    assert await books.rows("SELECT 1 FROM messaging.intent") == []


async def test_a_cancelled_invoice_with_a_link_is_a_case(books: Books, feed: Feed) -> None:
    invoice, unknown = await books.finalized_invoice(), await books.finalized_invoice()

    await feed.invoices(invoice.message(), invoice.message("cancelled"), unknown.message("cancelled"))

    assert await books.open_cases() == [("stale_link", invoice.reference_id)]
