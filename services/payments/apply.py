"""Apply one batch of webhooks: the only place where they change anything.

    1  decode; write what is no webhook message to the DLQ
                                           crash here and later: nothing happened, the batch comes again
    2  BEGIN; move the offsets, or Fenced  another owner moved on: drop the batch
    3  locks of the objects that the batch names
    4  per delivery: inbox by event id (applied before: nothing), facts by rank, ids of our links
    5  settle what is captured: the invoice's lock, posting, outbox, audit; or a case
    6  COMMIT                              crash after: the batch is done; a replay is fenced by 2

A delivery that was already applied, in any order and however often, changes nothing: the inbox stops it, ranks
only rise, and a capture is posted once per payment id. Locks are taken in the order of `settle`'s docstring.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from services.payments import link_store, payment_store
from services.payments.cases import open_case
from services.payments.facts import LinkFact, Webhook, read_webhook
from services.payments.object_locks import lock_objects_and_told_orders
from services.payments.settle import settle
from shared.contracts.messages.payment import WebhookMessage, decode_webhook
from shared.domain.errors import Rejected
from shared.kafka import dead_letter, offsets
from shared.kafka.dead_letter import Reject
from shared.kafka.offsets import StoredOffset
from shared.kafka.producer import Producer
from shared.kafka.records import Batch, Partition, Record
from shared.observability import names as metrics
from shared.postgres import inbox
from shared.postgres.pool import Connection, Database
from shared.runtime.failpoints import failpoint


@dataclass(frozen=True, slots=True)
class Delivery:
    """One verified webhook. `webhook` is None when its body cannot be read: `problem` says why."""

    record: Record
    message: WebhookMessage
    webhook: Webhook | None
    problem: str = ""

    @property
    def identity(self) -> str:
        """Retries carry the same event id and the same bytes. The id alone is not signed, so it alone proves nothing:
        with somebody's id on another body that body would otherwise be taken for applied."""
        return f"{self.message.event_id}:{hashlib.sha256(self.message.body).hexdigest()[:32]}"


@dataclass(slots=True)
class WebhookApplier:
    """Handler of the consumer loop for `payments.webhooks.v1`; `topic` is the real name of payments.v1."""

    database: Database
    producer: Producer
    group: str
    account_id: str
    topic: str
    _rejected: Batch | None = field(default=None, init=False)

    async def stored(self, partitions: Sequence[Partition]) -> Mapping[Partition, StoredOffset | None]:
        async with self.database.connection() as connection:
            return await offsets.stored(connection, self.group, partitions)

    async def apply(self, batch: Batch) -> None:
        """Raises DatabaseAway, BrokerAway, Fenced."""
        deliveries, rejects = decode(batch.records)
        if self._rejected is not batch:  # a batch that is tried again has its dead letters already
            await dead_letter.write(self.producer, rejects, self.group, "payments")
            self._rejected = batch
        async with self.database.transaction() as connection:
            await offsets.move(connection, self.group, batch.ranges)
            await lock_objects_and_told_orders(connection, _object_ids(deliveries))
            touched: set[str] = set()
            for delivery in deliveries:
                if await inbox.first_time(connection, self.group, delivery.identity):
                    touched |= await self._record(connection, delivery)
            outcomes = await settle(connection, touched, self.topic)
            await failpoint("payments.apply.before_commit")
        for outcome in outcomes:
            metrics.PAYMENTS_POSTED.labels(outcome).inc()

    async def _record(self, connection: Connection, delivery: Delivery) -> set[str]:
        """Store what one delivery says; returns the payments to settle because of it."""
        webhook = delivery.webhook
        if webhook is None:
            await _tell_unreadable(connection, delivery)
            return set()
        if webhook.account_id not in (None, self.account_id):
            await _tell_wrong_account(connection, delivery, webhook.account_id)
            return set()
        touched: set[str] = set()
        if webhook.payment is not None:
            await payment_store.merge(connection, webhook.payment)
            touched.add(webhook.payment.id)
        if webhook.link is not None:
            touched |= await _record_link(connection, webhook.link)
        return touched


def decode(records: Sequence[Record]) -> tuple[list[Delivery], list[Reject]]:
    """Split a batch into deliveries and what is no webhook message at all. Pure."""
    deliveries: list[Delivery] = []
    rejects: list[Reject] = []
    for record in records:
        try:
            message = decode_webhook(record.value or b"")
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            rejects.append(Reject(record, Rejected("malformed", f"not a webhook message: {error}")))
            continue
        try:
            deliveries.append(Delivery(record, message, read_webhook(message.body)))
        except Rejected as error:
            deliveries.append(Delivery(record, message, None, error.message))
    return deliveries, rejects


def _object_ids(deliveries: Sequence[Delivery]) -> set[str]:
    return {found for delivery in deliveries if delivery.webhook for found in delivery.webhook.object_ids}


async def _record_link(connection: Connection, fact: LinkFact) -> set[str]:
    """A link's order may be news to us: payments that came before it are looked at again."""
    await link_store.merge_fact(connection, fact)
    order_id = await link_store.learn(connection, fact.link_id)
    return set(await payment_store.parked_under(connection, fact.link_id, order_id))


async def _tell_unreadable(connection: Connection, delivery: Delivery) -> None:
    await open_case(
        connection,
        "unreadable",
        delivery.message.event_id,
        organisation_id=None,
        evidence={**_place(delivery), "problem": delivery.problem},
        action="read the body in the topic, look the event up at Razorpay",
    )


async def _tell_wrong_account(connection: Connection, delivery: Delivery, account_id: str | None) -> None:
    await open_case(
        connection,
        "wrong_account",
        delivery.message.event_id,
        organisation_id=None,
        evidence={**_place(delivery), "account_id": (account_id or "").encode("ascii", "replace").decode()[:40]},
        action="another Razorpay account sends webhooks here with our secret: correct its webhook, or the settings",
    )


def _place(delivery: Delivery) -> dict[str, str | int | None]:
    record = delivery.record
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset}
