"""Webhooks become at most one credit per payment, whatever their order, number and content."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from services.payments import payment_store
from services.payments.carry_out import store_link
from services.payments.facts import PaymentFact
from services.payments.object_locks import lock_objects
from shared.domain.errors import Fenced
from shared.ledger import store
from shared.ledger.posting import Standing, cancel_posting, finalize_posting
from shared.runtime import failpoints
from tests.integration.payments.conftest import ACCOUNT_ID, TOTAL_MINOR, Books, Feed, Invoice, provider_link
from tests.integration.payments.events import LINK, ORDER, PAYMENT, Paid, envelope
from tests.support.waiting import eventually

SECOND = "pay_BBBBBBBBBBBBBB"


async def invoice_with_link(books: Books, feed: Feed, order_id: str | None = None) -> Invoice:
    """A finalized invoice whose link Razorpay has made."""
    invoice = await books.finalized_invoice()
    await feed.invoices(invoice.message())
    await learn_link(books, feed, invoice, order_id)
    return invoice


async def learn_link(books: Books, feed: Feed, invoice: Invoice, order_id: str | None = None) -> None:
    """What the worker stores once Razorpay has answered."""
    async with books.database.transaction() as connection:
        await store_link(connection, provider_link(invoice, LINK, order_id), feed.payments_topic)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
async def test_the_four_events_in_any_order_make_one_credit(books: Books, feed: Feed, order: tuple[int, ...]) -> None:
    invoice = await invoice_with_link(books, feed)
    events = Paid(TOTAL_MINOR).all_four()

    for place in order:
        await feed.webhooks(events[place])

    assert await books.captures() == [PAYMENT]
    assert (await books.left_to_pay(invoice), await books.standing(invoice)) == (0, Standing.PAID)
    (payment,) = await books.rows("SELECT * FROM payments.payment")
    assert (payment["status"], payment["order_id"], payment["link_id"]) == ("captured", ORDER, LINK)
    link = await books.link(invoice)
    assert (link["status"], link["order_id"]) == ("paid", ORDER)
    assert (await books.open_cases(), await books.credit_minor(), await books.balanced()) == ([], 0, True)


async def test_every_delivery_three_times_shuffled_in_one_batch_is_one_credit(books: Books, feed: Feed) -> None:
    invoice = await invoice_with_link(books, feed)
    deliveries = Paid(TOTAL_MINOR).all_four() * 3
    random.Random(7).shuffle(deliveries)

    await feed.webhooks(*deliveries)
    await feed.webhooks(*reversed(deliveries))

    assert await books.captures() == [PAYMENT]
    assert await books.left_to_pay(invoice) == 0
    out = await books.rows("SELECT convert_from(value, 'UTF8') AS value FROM messaging.outbox")
    assert len(out) == 1
    assert f'"payment_id":"{PAYMENT}"' in out[0]["value"]
    audited = await books.rows("SELECT object_id FROM audit.entry WHERE action = 'payment.captured'")
    assert [row["object_id"] for row in audited] == [PAYMENT]


async def test_a_batch_that_was_applied_before_is_fenced(books: Books, feed: Feed) -> None:
    await invoice_with_link(books, feed, ORDER)
    await feed.webhooks(Paid(TOTAL_MINOR).event("payment.captured"))
    feed._next["t.payments.webhooks.v1"] = 0

    with pytest.raises(Fenced):
        await feed.webhooks(Paid(TOTAL_MINOR, payment=SECOND).event("payment.captured"))

    assert await books.captures() == [PAYMENT]


async def test_a_capture_before_its_link_is_known_waits_and_is_posted_then(books: Books, feed: Feed) -> None:
    invoice = await books.finalized_invoice()
    await feed.invoices(invoice.message())

    await feed.webhooks(Paid(TOTAL_MINOR).link_paid())
    assert await books.open_cases() == [("orphan", PAYMENT)]
    assert await books.captures() == []
    await learn_link(books, feed, invoice)

    assert await books.captures() == [PAYMENT]
    assert (await books.open_cases(), await books.left_to_pay(invoice)) == ([], 0)
    link = await books.link(invoice)
    assert (link["status"], link["order_id"]) == ("paid", ORDER)


async def test_a_capture_and_its_link_committing_at_the_same_moment_never_miss_each_other(
    books: Books, feed: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The webhook has looked for the link and is not committed; the link is stored and looks for payments."""
    monkeypatch.setattr(failpoints, "_folder", str(tmp_path))
    monkeypatch.setattr(failpoints, "HOLD_S", 0.3)
    invoice = await books.finalized_invoice()
    await feed.invoices(invoice.message())
    failpoints.arm(tmp_path, "payments.apply.before_commit")

    applying = asyncio.create_task(feed.webhooks(Paid(TOTAL_MINOR).event("payment.captured")))
    await failpoints.held(tmp_path, "payments.apply.before_commit")
    await learn_link(books, feed, invoice, ORDER)
    await applying

    assert (await books.captures(), await books.open_cases()) == ([PAYMENT], [])


async def test_a_capture_that_names_only_its_order_waits_for_the_event_that_names_the_link(
    books: Books, feed: Feed
) -> None:
    await invoice_with_link(books, feed)
    paid = Paid(TOTAL_MINOR)

    await feed.webhooks(paid.event("payment.captured", description=None))
    assert (await books.open_cases(), await books.captures()) == ([("orphan", PAYMENT)], [])
    other = Paid(TOTAL_MINOR, payment=SECOND)
    await feed.webhooks(other.event("payment.failed", "failed"), paid.link_paid())

    assert (await books.open_cases(), await books.captures()) == ([], [PAYMENT])


async def test_what_does_not_match_is_a_case_and_no_posting(books: Books, feed: Feed) -> None:
    invoice = await invoice_with_link(books, feed, order_id=ORDER)
    other_order, other_link = "order_ZZZZZZZZZZZZZZ", "plink_ZZZZZZZZZZZZZZ"
    wrong = [
        (Paid(TOTAL_MINOR - 1, payment="pay_00000000000001"), "amount_mismatch"),
        (Paid(TOTAL_MINOR + 1, payment="pay_00000000000002"), "amount_mismatch"),
        (Paid(TOTAL_MINOR, payment="pay_00000000000003", currency="USD"), "currency_mismatch"),
        (Paid(TOTAL_MINOR, payment="pay_00000000000004", order=other_order, link=other_link), "orphan"),
        # the link's id on a payment of another order than the link's own
        (Paid(TOTAL_MINOR, payment="pay_00000000000005", order=other_order), "orphan"),
    ]

    for paid, _ in wrong:
        await feed.webhooks(*paid.all_four())

    assert await books.open_cases() == [(case, paid.payment) for paid, case in wrong]
    assert (await books.captures(), await books.left_to_pay(invoice)) == ([], TOTAL_MINOR)


async def test_a_payment_of_another_order_that_calls_itself_our_links_is_never_posted(books: Books, feed: Feed) -> None:
    """Our link has no order yet; a page of the same account takes money over the same amount for something else."""
    invoice = await invoice_with_link(books, feed)
    stranger = Paid(TOTAL_MINOR, payment=SECOND, order="order_ZZZZZZZZZZZZZZ")

    await feed.webhooks(stranger.event("payment.captured"))
    assert (await books.captures(), await books.open_cases()) == ([], [("orphan", SECOND)])
    await feed.webhooks(Paid(TOTAL_MINOR).event("payment.captured"))
    assert await books.captures() == []  # ours as well waits for the event that names its order and its link
    await feed.webhooks(Paid(TOTAL_MINOR).link_paid())

    assert (await books.captures(), await books.open_cases()) == ([PAYMENT], [("orphan", SECOND)])
    assert await books.left_to_pay(invoice) == 0


async def test_the_order_that_only_a_webhook_told_of_a_link_is_locked_with_it(books: Books, feed: Feed) -> None:
    """While its payment is stored in another transaction, whoever learns that order waits and then sees it."""
    invoice = await books.finalized_invoice()
    await feed.invoices(invoice.message())
    await feed.webhooks(Paid(TOTAL_MINOR, payment=SECOND).link_paid())  # tells the order of the link

    async with books.database.transaction() as storing:
        await lock_objects(storing, [ORDER, PAYMENT])
        await payment_store.merge(storing, PaymentFact(PAYMENT, "captured", TOTAL_MINOR, "INR", ORDER))
        learning = asyncio.create_task(learn_link(books, feed, invoice))
        waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM "
        waiting += "pg_database WHERE datname = current_database())"
        await eventually(lambda: books.rows(waiting), lambda rows: len(rows) == 1 or learning.done())
        assert not learning.done()
    await learning

    assert await books.captures() == sorted([PAYMENT, SECOND])


async def test_a_case_that_is_open_shows_what_is_known_now(books: Books, feed: Feed) -> None:
    paid = Paid(TOTAL_MINOR)
    await feed.webhooks(paid.event("payment.captured", description=None))
    await feed.webhooks(paid.link_paid())

    (case,) = await books.rows("SELECT evidence FROM payments.case")
    assert case["evidence"]["link_id"] == LINK


async def test_notes_never_make_a_payment_ours(books: Books, feed: Feed) -> None:
    invoice = await invoice_with_link(books, feed)
    stranger = Paid(TOTAL_MINOR, order="order_ZZZZZZZZZZZZZZ")
    notes = {"invoice": invoice.number, "invoice_id": invoice.id, "reference_id": invoice.reference_id}

    await feed.webhooks(stranger.event("payment.captured", description=invoice.number, notes=notes))

    assert (await books.captures(), await books.open_cases()) == ([], [("orphan", PAYMENT)])


async def test_a_second_capture_becomes_customer_credit_with_a_case(books: Books, feed: Feed) -> None:
    invoice = await invoice_with_link(books, feed)
    await feed.webhooks(*Paid(TOTAL_MINOR).all_four())

    await feed.webhooks(Paid(TOTAL_MINOR, payment=SECOND).event("payment.captured"))

    assert await books.captures() == [PAYMENT, SECOND]
    assert (await books.left_to_pay(invoice), await books.credit_minor()) == (0, TOTAL_MINOR)
    assert await books.open_cases() == [("duplicate", SECOND)]
    assert await books.standing(invoice) is Standing.PAID
    assert await books.balanced()


async def test_failed_is_not_final_and_never_comes_back(books: Books, feed: Feed) -> None:
    invoice = await invoice_with_link(books, feed, ORDER)
    paid = Paid(TOTAL_MINOR)

    await feed.webhooks(paid.event("payment.failed", "failed", captured=True))
    assert await books.captures() == []
    await feed.webhooks(paid.event("payment.captured"))
    await feed.webhooks(("late", paid.event("payment.failed", "failed")[1] + b" "))

    (payment,) = await books.rows("SELECT status FROM payments.payment")
    assert (payment["status"], await books.left_to_pay(invoice)) == ("captured", 0)


async def test_a_refund_that_comes_first_implies_the_capture_and_opens_a_case(books: Books, feed: Feed) -> None:
    invoice = await invoice_with_link(books, feed, ORDER)
    refunded = Paid(TOTAL_MINOR).payment_entity("refunded", amount_refunded=TOTAL_MINOR)

    await feed.webhooks(envelope("refund.processed", PAYMENT, {"refund": {"id": "rfnd_1"}, "payment": refunded}))

    assert (await books.captures(), await books.left_to_pay(invoice)) == ([PAYMENT], 0)
    assert await books.open_cases() == [("refund_missing_here", PAYMENT)]


async def test_another_account_and_what_cannot_be_read_are_cases(books: Books, feed: Feed) -> None:
    await invoice_with_link(books, feed)
    entity = Paid(TOTAL_MINOR).payment_entity()
    _, foreign = envelope("payment.captured", PAYMENT, {"payment": entity}, account_id="acc_AnotherOne0001")
    _, bare = envelope("payment.captured", PAYMENT, {})
    _, harmless = envelope("settlement.processed", PAYMENT, {"settlement": {"id": "setl_1"}})
    unreadable = [b"\xff\x00", b"[]", b"{}", b"[" * 5_000, bare]

    await feed.webhooks(("e-foreign", foreign), ("e-harmless", harmless))
    for number, body in enumerate(unreadable):
        await feed.webhooks((f"e-{number}", body))

    assert await books.captures() == []
    cases = [("unreadable", f"e-{number}") for number in range(len(unreadable))]
    assert await books.open_cases() == [("wrong_account", "e-foreign"), *cases]
    assert ACCOUNT_ID not in foreign.decode()


async def test_an_event_id_used_up_by_another_body_hides_no_payment(books: Books, feed: Feed) -> None:
    """The id travels in a header that is not signed: replaying an old body under it must not suppress the new one."""
    invoice = await invoice_with_link(books, feed, ORDER)
    _, old = Paid(TOTAL_MINOR, payment=SECOND).event("payment.failed", "failed")

    await feed.webhooks(("the-id", old))
    await feed.webhooks(("the-id", Paid(TOTAL_MINOR).event("payment.captured")[1]))

    assert await books.left_to_pay(invoice) == 0


async def test_money_for_a_cancelled_invoice_is_credit_with_a_case(books: Books, feed: Feed) -> None:
    invoice = await invoice_with_link(books, feed)
    finalized = finalize_posting(
        invoice_id=invoice.id,
        organisation_id=invoice.organisation_id,
        currency="INR",
        taxable_minor=TOTAL_MINOR,
        tax_minor_by_head={},
    )
    async with books.database.transaction() as connection:
        await store.post(connection, cancel_posting(finalized))

    await feed.webhooks(*Paid(TOTAL_MINOR).all_four())

    assert (await books.credit_minor(), await books.open_cases()) == (TOTAL_MINOR, [("late_capture", PAYMENT)])
    assert await books.standing(invoice) is Standing.CANCELLED
