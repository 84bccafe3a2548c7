"""The main job in real processes: an invoice is paid, and killing them anywhere makes no second link or credit."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer

from shared.contracts.messages.invoice import encode_invoice
from shared.contracts.topics import INVOICES, PAYMENTS, PAYMENTS_WEBHOOKS, Topic, dead_letter
from shared.kafka.producer import Producer
from shared.ledger.posting import Standing
from shared.postgres.outbox import OutboxMessage
from shared.runtime import failpoints
from tests.conftest import Parts
from tests.integration.payments.conftest import Books, Invoice, payments_env
from tests.integration.payments.sandbox.conftest import SandboxProcess
from tests.support.services import Services, services
from tests.support.waiting import eventually


@dataclass
class Running:
    """Receiver and payments as processes, the sandbox as their Razorpay."""

    parts: Parts
    books: Books
    sandbox: SandboxProcess
    services: Services
    failpoints: Path

    async def send(self, topic: Topic, value: bytes) -> None:
        producer = Producer(self.parts.kafka, "test")
        try:
            await producer.send([OutboxMessage(self.parts.kafka.names.topic(topic), b"acme", value, (("h", b"1"),))])
        finally:
            await producer.stop()

    async def read(self, topic: Topic, count: int) -> list[Any]:
        consumer = AIOKafkaConsumer(
            self.parts.kafka.names.topic(topic), **self.parts.kafka.client_arguments(), auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            return [await asyncio.wait_for(consumer.getone(), 10) for _ in range(count)]
        finally:
            await consumer.stop()

    async def link_made(self, invoice: Invoice) -> dict[str, Any]:
        return await eventually(lambda: self.books.link(invoice), lambda link: link.get("status") == "created")

    async def delivered(self) -> list[dict[str, Any]]:
        """Every delivery of the sandbox, once none is on its way any more."""

        async def all_of_them() -> list[dict[str, Any]]:
            return await asyncio.to_thread(self.sandbox.deliveries)

        return await eventually(all_of_them, lambda found: bool(found) and not _pending(found))

    async def all_applied(self) -> None:
        """Every event that was delivered is in the inbox."""
        wanted = {each["event_id"] for each in await self.delivered()}

        async def applied() -> set[str]:
            rows = await self.books.rows("SELECT split_part(message_id, ':', 1) AS id FROM messaging.inbox")
            return {row["id"] for row in rows}

        await eventually(applied, lambda found: found == wanted)


def _pending(deliveries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in deliveries if each["state"] == "pending"]


@contextmanager
def _processes(parts: Parts, sandbox: SandboxProcess, home: Path) -> Iterator[Services]:
    (home / "failpoints").mkdir()
    with services(home, payments_env(parts, sandbox, home / "failpoints"), "receiver", "payments") as running:
        sandbox.post("/sandbox/webhook", {"url": f"{running.url('receiver')}/webhooks/razorpay"})
        yield running


@pytest.fixture
async def running(parts: Parts, books: Books, sandbox: SandboxProcess, tmp_path: Path) -> AsyncIterator[Running]:
    @asynccontextmanager
    async def started() -> AsyncIterator[Running]:
        processes = _processes(parts, sandbox, tmp_path)
        up = await asyncio.to_thread(processes.__enter__)
        try:
            yield Running(parts, books, sandbox, up, tmp_path / "failpoints")
        finally:
            await asyncio.to_thread(processes.__exit__, None, None, None)

    async with started() as found:
        yield found


async def test_an_invoice_is_paid_once_whatever_comes_twice_and_garbage_stops_nothing(running: Running) -> None:
    books, sandbox = running.books, running.sandbox
    invoice = await books.finalized_invoice()
    await running.send(INVOICES, b"\xff not an invoice")
    await running.send(PAYMENTS_WEBHOOKS, b"\xff not a webhook")
    await running.send(INVOICES, encode_invoice(invoice.message()))
    sandbox.post("/sandbox/knobs", {"shuffle_seconds": 0.2, "duplicate_copies": 2})

    link = await running.link_made(invoice)
    payment = (await asyncio.to_thread(sandbox.pay, {"id": link["link_id"]}))["payment"]

    await running.all_applied()
    assert len(await running.delivered()) == 12
    assert await books.captures() == [payment["id"]]
    assert (await books.left_to_pay(invoice), await books.standing(invoice)) == (0, Standing.PAID)
    assert (await books.open_cases(), await books.balanced()) == ([], True)
    (told,) = await running.read(PAYMENTS, 1)
    assert told.key == b"acme"
    assert json.loads(told.value)["payment_id"] == payment["id"]
    for topic, value in ((INVOICES, b"\xff not an invoice"), (PAYMENTS_WEBHOOKS, b"\xff not a webhook")):
        (letter,) = await running.read(dead_letter(topic), 1)
        headers = dict(letter.headers)
        assert (letter.value, headers["h"], headers["dlq.error_code"]) == (value, b"1", b"malformed")
    listed = await asyncio.to_thread(_command, running.parts, "list", "--invoice", invoice.number)
    assert [(row["payment"], row["invoice"]) for row in listed] == [(payment["id"], invoice.number)]
    (shown,) = await asyncio.to_thread(_command, running.parts, "links")
    assert (shown["status"], shown["short_url"]) == ("paid", link["short_url"])
    assert await asyncio.to_thread(_command, running.parts, "cases") == []


def _command(parts: Parts, *words: str) -> list[dict[str, Any]]:
    """`khata payments ... --output json`, as another process."""
    code = "from services.payments.commands import app; app()"
    ran = subprocess.run(
        [sys.executable, "-c", code, *words, "--output", "json"],
        env={**os.environ, **parts.env},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    found: list[dict[str, Any]] = json.loads(ran.stdout)
    return found


@pytest.mark.failpoints(
    "payments.intent.before_call",
    "payments.intent.after_call",
    "receiver.before_ack",
    "payments.apply.before_commit",
)
async def test_killed_at_every_failpoint_there_is_one_link_and_one_credit(running: Running) -> None:
    books, sandbox = running.books, running.sandbox
    invoice = await books.finalized_invoice()

    for point in ("payments.intent.before_call", "payments.intent.after_call"):
        failpoints.arm(running.failpoints, point)
    await running.send(INVOICES, encode_invoice(invoice.message()))
    await kill_at(running, "payments.intent.before_call", lambda: sandbox.ledger()["payment_links"] == [])
    await kill_at(running, "payments.intent.after_call", lambda: len(sandbox.ledger()["payment_links"]) == 1)
    link = await running.link_made(invoice)
    assert [made["id"] for made in sandbox.ledger()["payment_links"]] == [link["link_id"]]

    for point in ("receiver.before_ack", "payments.apply.before_commit"):
        failpoints.arm(running.failpoints, point)
    payment = (await asyncio.to_thread(sandbox.pay, {"id": link["link_id"]}))["payment"]
    for point in ("receiver.before_ack", "payments.apply.before_commit"):
        await kill_at(running, point)

    await running.all_applied()
    assert await books.captures() == [payment["id"]]
    assert (await books.left_to_pay(invoice), await books.credit_minor()) == (0, 0)
    assert await books.standing(invoice) is Standing.PAID
    assert (await books.open_cases(), await books.balanced()) == ([], True)
    (told,) = await running.read(PAYMENTS, 1)
    assert json.loads(told.value)["payment_id"] == payment["id"]


async def kill_at(running: Running, point: str, holds: Callable[[], bool] = lambda: True) -> None:
    """SIGKILL whoever is held at the point, while `holds`; the supervisor starts it again."""
    pid = await failpoints.held(running.failpoints, point)
    assert await asyncio.to_thread(holds)
    os.kill(pid, signal.SIGKILL)
