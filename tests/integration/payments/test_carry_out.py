"""The worker, the real SDK and a real sandbox process: one invoice has one link, whatever Razorpay answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from services.payments.carry_out import Worker
from services.payments.collect import CREATE_LINK
from services.payments.gateway import GatewayRefused, LinkRequest
from services.payments.razorpay.client import RazorpayGateway
from services.payments.retry import retry_refused
from services.payments.settings import RazorpaySettings
from shared.domain.errors import ProviderAway
from shared.postgres import intents
from tests.integration.payments.conftest import ACCOUNT_ID, TOTAL_MINOR, Books, Feed, Invoice
from tests.integration.payments.sandbox.conftest import KEY_ID, KEY_SECRET, SandboxProcess
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    """One for this file: every test's invoices have references of their own."""
    process = SandboxProcess(tmp_path_factory.mktemp("sandbox"))
    yield process
    process.close()


@pytest.fixture(autouse=True)
def calm(sandbox: SandboxProcess) -> Iterator[None]:
    yield
    sandbox.calm()


def settings(url: str, secret: str = KEY_SECRET, **other: Any) -> RazorpaySettings:
    return RazorpaySettings(
        razorpay_key_id=KEY_ID,
        razorpay_key_secret=SecretStr(secret),
        razorpay_account_id=ACCOUNT_ID,
        razorpay_base_url=url,
        **other,
    )


@asynccontextmanager
async def working(books: Books, feed: Feed, given: RazorpaySettings, calls: int = 2) -> AsyncIterator[None]:
    """A worker, as the process runs it."""
    gateway, stop = RazorpayGateway(given, calls), asyncio.Event()
    worker = Worker(books.settings, books.database, gateway, feed.payments_topic, calls)
    running = asyncio.create_task(worker.run(stop))
    try:
        yield
    finally:
        stop.set()
        await running
        gateway.close()


def links_of(sandbox: SandboxProcess, invoice: Invoice) -> list[dict[str, Any]]:
    return [link for link in sandbox.ledger()["payment_links"] if link["reference_id"] == invoice.reference_id]


async def created(books: Books, invoice: Invoice) -> dict[str, Any]:
    return await eventually(lambda: books.link(invoice), lambda link: link.get("status") == "created", 10)


async def test_a_bad_answer_still_ends_in_exactly_one_link(
    books: Books, feed: Feed, sandbox: SandboxProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = ["commit_then_drop", "500", "502_html", "empty", "429", "message"]
    invoices = [await books.finalized_invoice() for _ in kinds]
    await feed.invoices(*(invoice.message() for invoice in invoices))
    for kind in kinds:
        sandbox.post("/sandbox/faults", {"kind": kind, "path": "/v1/payment_links", "method": "POST", "times": 1})

    async with working(books, feed, settings(sandbox.url), calls=len(kinds)):
        links = [await created(books, invoice) for invoice in invoices]

    for invoice, link in zip(invoices, links, strict=True):
        (made,) = links_of(sandbox, invoice)
        assert (link["link_id"], link["short_url"]) == (made["id"], made["short_url"])
        assert (made["amount"], made["currency"], made["accept_partial"]) == (TOTAL_MINOR, "INR", False)
        assert (made["notes"], made["customer"]["email"]) == ({"invoice": invoice.number}, "accounts@example.com")
    # All first attempts are under way before the first second one is due: each met one fault.
    intents = await books.rows("SELECT state, attempts FROM messaging.intent")
    assert intents == [{"state": "done", "attempts": 2}] * len(kinds)
    assert "Connection failed" not in capsys.readouterr().out  # the SDK prints; our stdout is JSON lines


async def test_a_slow_answer_is_given_up_and_its_link_is_found(
    books: Books, feed: Feed, sandbox: SandboxProcess
) -> None:
    invoice = await books.finalized_invoice()
    await feed.invoices(invoice.message())
    sandbox.post("/sandbox/faults", {"kind": "slow", "path": "/v1/payment_links", "method": "POST", "seconds": 0.6})

    async with working(books, feed, settings(sandbox.url, razorpay_read_timeout_s=0.3)):
        link = await created(books, invoice)

    assert [made["id"] for made in links_of(sandbox, invoice)] == [link["link_id"]]


async def test_a_wrong_key_is_a_case_and_a_retry_heals_it(books: Books, feed: Feed, sandbox: SandboxProcess) -> None:
    invoice = await books.finalized_invoice()
    await feed.invoices(invoice.message())

    async with working(books, feed, settings(sandbox.url, secret="not-the-secret")):
        await eventually(books.open_cases, lambda cases: cases == [("link_refused", invoice.reference_id)], 10)
    assert links_of(sandbox, invoice) == []
    assert await retry_refused(books.database, "test") == [invoice.reference_id]
    async with working(books, feed, settings(sandbox.url)):
        await created(books, invoice)

    assert await books.open_cases() == []
    texts = await books.rows("SELECT error FROM messaging.intent UNION ALL SELECT evidence::text FROM payments.case")
    assert not [text for text in texts if "not-the-secret" in str(text)]


async def test_an_amount_that_razorpay_refuses_is_a_case(books: Books, feed: Feed, sandbox: SandboxProcess) -> None:
    invoice = await books.finalized_invoice(total_minor=99)  # Razorpay takes 1.00 INR at least
    await feed.invoices(invoice.message())

    async with working(books, feed, settings(sandbox.url)):
        await eventually(books.open_cases, lambda cases: cases == [("link_refused", invoice.reference_id)], 10)

    (intent,) = await books.rows("SELECT state, attempts FROM messaging.intent")
    assert (intent["state"], intent["attempts"]) == ("failed", 1)


async def test_a_link_paid_before_we_knew_it_is_credited_once_we_do(
    books: Books, feed: Feed, sandbox: SandboxProcess
) -> None:
    """The answer to an earlier creation was lost; the customer has found the link and paid."""
    invoice = await books.finalized_invoice()
    await feed.invoices(invoice.message())
    lost = RazorpayGateway(settings(sandbox.url), 1)
    made = await lost.create_link(
        LinkRequest(invoice.reference_id, TOTAL_MINOR, "INR", "Invoice", "Acme", None, invoice.number)
    )
    lost.close()
    sandbox.post("/sandbox/webhook", {"url": "http://127.0.0.1:1/nobody"})
    before = max((each["seq"] for each in sandbox.deliveries()), default=0)
    payment = sandbox.pay({"id": made.link_id})["payment"]
    sent = sandbox.deliveries(after=before)
    await feed.webhooks(*((each["event_id"], each["body"].encode()) for each in sent))
    assert (await books.open_cases(), await books.captures()) == ([("orphan", payment["id"])], [])

    async with working(books, feed, settings(sandbox.url)):
        await eventually(lambda: books.left_to_pay(invoice), lambda left: left == 0, 10)

    assert (await books.open_cases(), await books.captures()) == ([], [payment["id"]])
    link = await books.link(invoice)
    assert (link["status"], link["order_id"]) == ("paid", payment["order_id"])
    assert [each["id"] for each in links_of(sandbox, invoice)] == [made.link_id]


async def test_a_link_over_another_amount_is_never_shown(books: Books, feed: Feed, sandbox: SandboxProcess) -> None:
    invoice = await books.finalized_invoice()
    await feed.invoices(invoice.message())
    gateway = RazorpayGateway(settings(sandbox.url), 1)
    await gateway.create_link(LinkRequest(invoice.reference_id, 100, "INR", "Invoice", "Acme", None, invoice.number))
    gateway.close()

    async with working(books, feed, settings(sandbox.url)):
        await eventually(books.open_cases, lambda cases: cases == [("link_differs", invoice.reference_id)], 10)

    assert (await books.link(invoice))["link_id"] is None


async def test_errors_of_the_provider_never_hold_the_secret(sandbox: SandboxProcess) -> None:
    nobody = RazorpayGateway(settings("http://127.0.0.1:1"), 1)
    wrong = RazorpayGateway(settings(sandbox.url, secret="not-the-secret"), 1)

    with pytest.raises(ProviderAway) as away:
        await nobody.link_by_reference("kh-1")
    with pytest.raises(GatewayRefused) as refused:
        await wrong.link_by_reference("kh-1")

    nobody.close()
    wrong.close()
    assert refused.value.status == 401
    for error in (away.value, refused.value):
        chain = (error, error.__cause__, error.__context__)
        assert "secret" not in " ".join(map(repr, chain)).lower()


async def test_only_one_of_two_workers_calls(books: Books, feed: Feed, sandbox: SandboxProcess) -> None:
    invoices = [await books.finalized_invoice() for _ in range(6)]
    await feed.invoices(*(invoice.message() for invoice in invoices))

    async with working(books, feed, settings(sandbox.url)), working(books, feed, settings(sandbox.url)):
        for invoice in invoices:
            await created(books, invoice)

    assert [len(links_of(sandbox, invoice)) for invoice in invoices] == [1] * 6
    attempts = await books.rows("SELECT DISTINCT attempts FROM messaging.intent")
    assert attempts == [{"attempts": 1}]


async def test_a_slow_worker_cannot_undo_what_its_successor_did(
    books: Books, feed: Feed, sandbox: SandboxProcess
) -> None:
    """A leader cut off from Postgres while it calls learns on return that the attempt is not its own any more."""
    invoice = await books.finalized_invoice()
    await feed.invoices(invoice.message())
    claims = []
    for _ in range(2):
        async with books.database.transaction() as connection:
            await intents.release_claims(connection, CREATE_LINK)
        async with books.database.transaction() as connection:
            claims.append(await intents.claim(connection, CREATE_LINK))
    old, new = claims
    assert old is not None
    assert new is not None
    away, there = RazorpayGateway(settings("http://127.0.0.1:1"), 1), RazorpayGateway(settings(sandbox.url), 1)

    await Worker(books.settings, books.database, there, feed.payments_topic).carry_out(new)
    await Worker(books.settings, books.database, away, feed.payments_topic).carry_out(old)

    away.close()
    there.close()
    (intent,) = await books.rows("SELECT state, error FROM messaging.intent")
    assert intent == {"state": "done", "error": None}
