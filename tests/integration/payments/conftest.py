"""Payments on real parts: an invoice in the books, a sandbox process, and webhooks as Razorpay words them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from services.payments.apply import WebhookApplier
from services.payments.collect import Collector, reference_id
from services.payments.gateway import ProviderLink
from shared.contracts.messages.invoice import InvoiceMessage, encode_invoice
from shared.contracts.messages.payment import WebhookMessage, encode_webhook
from shared.contracts.topics import INVOICES, PAYMENTS, PAYMENTS_WEBHOOKS, Names
from shared.kafka.producer import Producer
from shared.kafka.records import Batch, OffsetRange, Record
from shared.ledger import store
from shared.ledger.posting import Standing, finalize_posting
from shared.postgres.pool import Database
from shared.runtime.settings import DatabaseSettings, KafkaSettings
from tests.conftest import Parts
from tests.integration.payments.sandbox.conftest import KEY_ID, KEY_SECRET, WEBHOOK_SECRET, SandboxProcess

ACCOUNT_ID = "acc_KhataSandbox01"  # the sandbox's default
TOTAL_MINOR = 118_000


@dataclass(frozen=True)
class Invoice:
    id: str
    number: str
    organisation_id: str = "acme"
    total_minor: int = TOTAL_MINOR
    currency: str = "INR"

    @property
    def reference_id(self) -> str:
        return reference_id(self.id)

    def message(self, event: str = "finalized") -> InvoiceMessage:
        return InvoiceMessage(
            event=event,  # type: ignore[arg-type]
            invoice_id=self.id,
            organisation_id=self.organisation_id,
            number=self.number,
            year=2026,
            month=10,
            currency=self.currency,
            total_minor=self.total_minor,
            issued_on=date(2026, 11, 1),
        )


@dataclass
class Books:
    """The test's database: invoices put in as the invoicer would, and what became of them."""

    owner_url: str
    settings: DatabaseSettings
    database: Database
    _numbers: int = 0

    async def finalized_invoice(
        self, total_minor: int = TOTAL_MINOR, organisation_id: str = "acme", currency: str = "INR"
    ) -> Invoice:
        """A finalized invoice, owed and in the ledger. (Months run on: one invoice per organisation and month.)"""
        self._numbers += 1
        number = f"KH/26-27/{self._numbers:06}"
        invoice = Invoice(str(uuid4()), number, organisation_id, total_minor, currency)
        with psycopg.connect(self.owner_url) as connection:
            connection.execute(
                """
                INSERT INTO catalogue.organisation (id, name, currency, state_code, email)
                VALUES (%s, initcap(%s), %s, '29', 'accounts@example.com') ON CONFLICT DO NOTHING
                """,
                (organisation_id, organisation_id, currency),
            )
            cut = connection.execute(
                "INSERT INTO usage.cut (epoch_version, offsets) VALUES (1, '{}') RETURNING id"
            ).fetchone()
            assert cut is not None
            connection.execute(
                """
                INSERT INTO billing.invoice (
                    id, organisation_id, year, month, state, currency, cut_id, subtotal_minor, discount_minor,
                    tax_minor, total_minor, content, content_text, content_sha256, engine_version, number, issued_on,
                    finalized_at
                ) VALUES (%s, %s, %s, 10, 'finalized', %s, %s, %s, 0, 0, %s, %s, '{}', sha256('{}'), 'test', %s,
                          '2026-11-01', now())
                """,
                (
                    invoice.id,
                    organisation_id,
                    2000 + self._numbers,
                    currency,
                    cut[0],
                    total_minor,
                    total_minor,
                    Jsonb({}),
                    number,
                ),
            )
        await self._post_finalized(invoice)
        return invoice

    async def _post_finalized(self, invoice: Invoice) -> None:
        invoicer = Database(self.settings, "khata_invoicer", "test-invoicer")
        await invoicer.open()
        try:
            async with invoicer.transaction() as connection:
                posting = finalize_posting(
                    invoice_id=invoice.id,
                    organisation_id=invoice.organisation_id,
                    currency=invoice.currency,
                    taxable_minor=invoice.total_minor,
                    tax_minor_by_head={},
                )
                await store.open_invoice(connection, invoice.id, invoice.organisation_id, invoice.currency)
                assert await store.post(connection, posting)
        finally:
            await invoicer.close()

    async def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """Rows as the owner sees them."""

        def read() -> list[dict[str, Any]]:
            with psycopg.connect(self.owner_url, row_factory=dict_row) as connection:
                return connection.execute(query, values).fetchall()  # type: ignore[call-overload,no-any-return]

        return await asyncio.to_thread(read)

    async def left_to_pay(self, invoice: Invoice) -> int:
        (row,) = await self.rows(
            "SELECT receivable_minor FROM ledger.invoice_balance WHERE invoice_id = %s", invoice.id
        )
        return int(row["receivable_minor"])

    async def standing(self, invoice: Invoice) -> Standing:
        async with self.database.connection() as connection:
            return await store.invoice_standing(connection, invoice.id)

    async def captures(self) -> list[str]:
        """Payment ids that the ledger has captures of."""
        rows = await self.rows("SELECT object_id FROM ledger.posting WHERE kind = 'payment_captured' ORDER BY id")
        return [row["object_id"] for row in rows]

    async def credit_minor(self, organisation_id: str = "acme") -> int:
        rows = await self.rows(
            "SELECT credit_minor FROM ledger.customer_balance WHERE organisation_id = %s", organisation_id
        )
        return int(rows[0]["credit_minor"]) if rows else 0

    async def open_cases(self) -> list[tuple[str, str]]:
        """(class, object) of every open case."""
        rows = await self.rows("SELECT class, object_id FROM payments.case WHERE closed_at IS NULL ORDER BY id")
        return [(row["class"], row["object_id"]) for row in rows]

    async def link(self, invoice: Invoice) -> dict[str, Any]:
        rows = await self.rows("SELECT * FROM payments.link WHERE invoice_id = %s", invoice.id)
        return rows[0] if rows else {}

    async def balanced(self) -> bool:
        async with self.database.connection() as connection:
            return await store.sum_of_everything(connection) == {}


@pytest.fixture
async def books(database_url: str) -> AsyncIterator[Books]:
    from pydantic import SecretStr

    settings = DatabaseSettings(database_url=SecretStr(database_url))
    database = Database(settings, "khata_payments", "test-payments")
    await database.open()
    yield Books(database_url, settings, database)
    await database.close()


@dataclass
class Feed:
    """Hands batches to the two handlers as the consumer loop would: consecutive offsets of one partition."""

    books: Books
    names: Names = field(default_factory=lambda: Names("t."))
    _next: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Never started: nothing these batches hold goes to the DLQ.
        self.producer = Producer(KafkaSettings(kafka_bootstrap_servers="127.0.0.1:1"), "unused")
        self.payments_topic = self.names.topic(PAYMENTS)
        database = self.books.database
        self.applier = WebhookApplier(
            database, self.producer, self.names.group("payments", "webhooks"), ACCOUNT_ID, self.payments_topic
        )
        self.collector = Collector(database, self.producer, self.names.group("payments", "invoices"))

    async def webhooks(self, *deliveries: tuple[str, bytes]) -> None:
        """Apply one batch of (event id, body)."""
        values = [encode_webhook(WebhookMessage(event_id, datetime.now(UTC), body)) for event_id, body in deliveries]
        await self.applier.apply(self.batch(self.names.topic(PAYMENTS_WEBHOOKS), values))

    async def invoices(self, *messages: InvoiceMessage) -> None:
        await self.collector.apply(self.batch(self.names.topic(INVOICES), [encode_invoice(m) for m in messages]))

    def batch(self, topic: str, values: list[bytes]) -> Batch:
        start = self._next.get(topic, 0)
        records = tuple(
            Record(topic, 0, start + index, 1_700_000_000_000, b"key", value, ()) for index, value in enumerate(values)
        )
        self._next[topic] = start + len(records)
        return Batch(records, (OffsetRange(topic, 0, start, start + len(records), records[-1]),))


@pytest.fixture
def feed(books: Books) -> Feed:
    return Feed(books)


def provider_link(invoice: Invoice, link_id: str, order_id: str | None = None, **other: Any) -> ProviderLink:
    """The link as Razorpay answers it."""
    fields: dict[str, Any] = {
        "link_id": link_id,
        "reference_id": invoice.reference_id,
        "amount_minor": invoice.total_minor,
        "currency": invoice.currency,
        "status": "created",
        "short_url": f"http://127.0.0.1/l/{link_id}",
        "order_id": order_id,
    }
    return ProviderLink(**(fields | other))


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[SandboxProcess]:
    """A sandbox of the test's own: nothing of another test is ever delivered to it."""
    process = SandboxProcess(tmp_path)
    yield process
    process.close()


def payments_env(parts: Parts, sandbox: SandboxProcess, failpoints: Path) -> dict[str, str]:
    """Environment of `khata run payments` and `khata run receiver`."""
    return {
        **parts.env,
        "RAZORPAY_KEY_ID": KEY_ID,
        "RAZORPAY_KEY_SECRET": KEY_SECRET,
        "RAZORPAY_ACCOUNT_ID": ACCOUNT_ID,
        "RAZORPAY_BASE_URL": sandbox.url,
        "RAZORPAY_WEBHOOK_SECRETS": WEBHOOK_SECRET,
        "KHATA_FAILPOINTS_DIR": str(failpoints),
    }
