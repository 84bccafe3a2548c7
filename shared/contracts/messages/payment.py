"""`payments.v1` and `payments.webhooks.v1`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec


class PaymentMessage(msgspec.Struct, frozen=True):
    """`payments.v1`: a payment was posted. Amounts in the currency's smallest unit."""

    event: Literal["captured"]
    payment_id: str
    organisation_id: str
    invoice_id: str
    amount_minor: int
    currency: str


class WebhookMessage(msgspec.Struct, frozen=True):
    """`payments.webhooks.v1`: one delivery whose signature fitted; `body` is the exact bytes received."""

    event_id: str
    received_at: datetime
    body: bytes


_webhook_decoder = msgspec.json.Decoder(WebhookMessage)


def encode_payment(message: PaymentMessage) -> bytes:
    return msgspec.json.encode(message)


def encode_webhook(message: WebhookMessage) -> bytes:
    return msgspec.json.encode(message)


def decode_webhook(value: bytes) -> WebhookMessage:
    """Raises msgspec.DecodeError for anything the receiver would not have written."""
    return _webhook_decoder.decode(value)
