"""Post captured payments to the ledger, or park them with a case. Called inside the caller's transaction.

Locks, in this order, by every transaction of payments (docs: README.md, "Locks"):

    1  offset rows by partition, or the intent's row        (the callers)
    2  objects of Razorpay, ascending                       (object_locks, the callers)
    3  inbox, payment and link rows                         (guarded by 2)
    4  invoice balances, ascending by invoice               (here)
    5  customer balances                                    (ledger store; two excesses crossing retry as a deadlock)
"""

from __future__ import annotations

from collections.abc import Iterable

from services.payments import link_store, payment_store
from services.payments.cases import close_cases, open_case
from services.payments.match import PARKING, CaseClass, Mismatch, OwnLink, StoredPayment, judge
from shared.audit.append import append
from shared.contracts.messages.payment import PaymentMessage, encode_payment
from shared.ledger import store
from shared.ledger.accounts import Account
from shared.ledger.posting import Standing, capture_posting
from shared.postgres import outbox
from shared.postgres.outbox import OutboxMessage
from shared.postgres.pool import Connection

ACTOR = "service:payments"


async def settle(connection: Connection, payment_ids: Iterable[str], topic: str) -> list[str]:
    """Settle those of the payments that are captured; returns what became of each, for the metric.

    `topic` is the real name of payments.v1. Order of arrival does not matter: the posting is unique by payment
    id, and what is parked is looked at again whenever an id that it names becomes known.
    """
    outcomes: list[str] = []
    ours: list[tuple[StoredPayment, OwnLink]] = []
    for payment in await payment_store.captured(connection, payment_ids):
        if payment.refunded_minor > 0:
            await _tell_refund(connection, payment)
        if payment.posted:
            continue
        verdict = judge(payment, await link_store.candidates(connection, payment))
        if isinstance(verdict, Mismatch):
            await _park(connection, payment, verdict)
            outcomes.append(verdict.case_class)
        else:
            ours.append((payment, verdict))
    for payment, link in sorted(ours, key=lambda pair: (pair[1].invoice_id, pair[0].id)):
        outcomes.append(await _credit(connection, payment, link, topic))
    return outcomes


async def _credit(connection: Connection, payment: StoredPayment, link: OwnLink, topic: str) -> str:
    """Post one capture: what is left to pay is paid, the rest becomes customer credit with a case."""
    balance = await store.lock_invoice(connection, link.invoice_id)
    if balance is None or balance.currency != payment.currency:
        # Our link says otherwise than the ledger: nothing a payment can decide.
        kept_in = None if balance is None else balance.currency
        case_class: CaseClass = "currency_mismatch" if balance else "orphan"
        expected: dict[str, str | int] = {"invoice_id": link.invoice_id, "ledger_currency": kept_in or "no balance"}
        mismatch = Mismatch(case_class, link.organisation_id, expected, "compare the invoice with its payment link")
        await _park(connection, payment, mismatch)
        return mismatch.case_class
    posting = capture_posting(
        payment_id=payment.id,
        amount_minor=payment.amount_minor,
        currency=payment.currency,
        organisation_id=link.organisation_id,
        invoice_id=link.invoice_id,
        receivable_left_minor=balance.receivable_minor,
    )
    posted = await store.post(connection, posting)
    await payment_store.mark_posted(connection, payment.id, link.organisation_id, link.invoice_id)
    await close_cases(connection, payment.id, PARKING)
    if not posted:
        return "replayed"
    await _tell_captured(connection, payment, link, topic)
    excess_minor = -posting.net(Account.CUSTOMER_CREDIT)
    if excess_minor == 0:
        return "credited"
    return await _tell_excess(connection, payment, link, excess_minor)


async def _tell_captured(connection: Connection, payment: StoredPayment, link: OwnLink, topic: str) -> None:
    message = PaymentMessage(
        event="captured",
        payment_id=payment.id,
        organisation_id=link.organisation_id,
        invoice_id=link.invoice_id,
        amount_minor=payment.amount_minor,
        currency=payment.currency,
    )
    await outbox.add(connection, [OutboxMessage(topic, link.organisation_id.encode(), encode_payment(message))])
    await append(
        connection,
        actor=ACTOR,
        action="payment.captured",
        object_kind="payment",
        object_id=payment.id,
        organisation_id=link.organisation_id,
        details={"invoice_id": link.invoice_id, "amount_minor": payment.amount_minor, "currency": payment.currency},
    )


async def _tell_excess(connection: Connection, payment: StoredPayment, link: OwnLink, excess_minor: int) -> str:
    """More came than was left to pay: a second payment, or one after the invoice was cancelled."""
    cancelled = await store.invoice_standing(connection, link.invoice_id) is Standing.CANCELLED
    case_class: CaseClass = "late_capture" if cancelled else "duplicate"
    await open_case(
        connection,
        case_class,
        payment.id,
        organisation_id=link.organisation_id,
        evidence={"invoice_id": link.invoice_id, "excess_minor": excess_minor, "currency": payment.currency},
        action="the excess is customer credit: refund it, or leave it for the next invoice",
    )
    return case_class


async def _tell_refund(connection: Connection, payment: StoredPayment) -> None:
    """Money went back at Razorpay; its posting is a later step, so a person keeps account of it until then."""
    await open_case(
        connection,
        "refund_missing_here",
        payment.id,
        organisation_id=None,
        evidence={"refunded_minor": payment.refunded_minor, "currency": payment.currency},
        action="refunds are not posted yet: issue the credit note, and note the refund in the books",
    )


async def _park(connection: Connection, payment: StoredPayment, mismatch: Mismatch) -> None:
    """Nothing is posted; the payment is looked at again when an id that it names becomes known."""
    paid: dict[str, str | int | None] = {
        "paid_minor": payment.amount_minor,
        "paid_currency": payment.currency,
        "order_id": payment.order_id,
        "link_id": payment.link_id,
    }
    await open_case(
        connection,
        mismatch.case_class,
        payment.id,
        organisation_id=mismatch.organisation_id,
        evidence=paid | mismatch.expected,
        action=mismatch.action,
    )
