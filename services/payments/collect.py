"""Ask for payment of what was invoiced: each finalized invoice gets a link and the intent to make it.

    1  decode; write what is no invoice message to the DLQ
    2  BEGIN; move the offsets, or Fenced
    3  a row in payments.link and the intent `payment_link.create`, once per invoice
    4  COMMIT                              crash before: nothing happened; after: the worker carries the intent out

No call is made here. A cancelled invoice that has a link opens a case: cancelling the link at Razorpay is a later
step, so until then a person does it, and money that still comes becomes customer credit (`settle`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import msgspec

from services.payments import link_store
from services.payments.cases import open_case
from shared.contracts.messages.invoice import InvoiceMessage, decode_invoice
from shared.domain.errors import Rejected
from shared.kafka import dead_letter, offsets
from shared.kafka.dead_letter import Reject
from shared.kafka.offsets import StoredOffset
from shared.kafka.producer import Producer
from shared.kafka.records import Batch, Partition, Record
from shared.postgres import intents
from shared.postgres.pool import Connection, Database

CREATE_LINK = "payment_link.create"


def reference_id(invoice_id: str) -> str:
    """What Razorpay knows our link by: at most 40 characters, the same for ever for one invoice."""
    return f"kh-{UUID(invoice_id).hex}"


@dataclass(slots=True)
class Collector:
    """Handler of the consumer loop for `invoices.v1`."""

    database: Database
    producer: Producer
    group: str
    _rejected: Batch | None = field(default=None, init=False)

    async def stored(self, partitions: Sequence[Partition]) -> Mapping[Partition, StoredOffset | None]:
        async with self.database.connection() as connection:
            return await offsets.stored(connection, self.group, partitions)

    async def apply(self, batch: Batch) -> None:
        """Raises DatabaseAway, BrokerAway, Fenced."""
        invoices, rejects = decode(batch.records)
        if self._rejected is not batch:  # a batch that is tried again has its dead letters already
            await dead_letter.write(self.producer, rejects, self.group, "payments")
            self._rejected = batch
        async with self.database.transaction() as connection:
            await offsets.move(connection, self.group, batch.ranges)
            for invoice in invoices:
                await _collect(connection, invoice)


def decode(records: Sequence[Record]) -> tuple[list[InvoiceMessage], list[Reject]]:
    """Split a batch into invoice messages and what is none. Pure."""
    invoices: list[InvoiceMessage] = []
    rejects: list[Reject] = []
    for record in records:
        try:
            invoice = decode_invoice(record.value or b"")
            UUID(invoice.invoice_id)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            rejects.append(Reject(record, Rejected("malformed", f"not an invoice message: {error}")))
        else:
            invoices.append(invoice)
    return invoices, rejects


async def _collect(connection: Connection, invoice: InvoiceMessage) -> None:
    reference = reference_id(invoice.invoice_id)
    if invoice.event == "cancelled":
        await _tell_cancelled(connection, invoice, reference)
        return
    if invoice.total_minor <= 0:
        return  # nothing to pay
    if await link_store.intend_link(connection, reference, invoice):
        await intents.intend(
            connection, CREATE_LINK, reference, invoice.organisation_id, {"invoice_number": invoice.number}
        )


async def _tell_cancelled(connection: Connection, invoice: InvoiceMessage, reference: str) -> None:
    link = await link_store.by_reference(connection, reference)
    if link is None:
        return
    await open_case(
        connection,
        "stale_link",
        reference,
        organisation_id=invoice.organisation_id,
        evidence={"invoice_id": invoice.invoice_id, "number": invoice.number, "link_id": link.link_id},
        action="the invoice is cancelled: cancel its payment link at Razorpay",
    )
