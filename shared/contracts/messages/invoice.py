"""`invoices.v1`: what happened to an invoice. Keyed by organisation."""

from __future__ import annotations

from datetime import date
from typing import Literal

import msgspec


class InvoiceMessage(msgspec.Struct, frozen=True):
    """`total_minor` in the currency's smallest unit (paise for INR)."""

    event: Literal["finalized", "cancelled"]
    invoice_id: str
    organisation_id: str
    number: str
    year: int
    month: int
    currency: str
    total_minor: int
    issued_on: date


_decoder = msgspec.json.Decoder(InvoiceMessage)


def decode_invoice(value: bytes) -> InvoiceMessage:
    """Raises msgspec.DecodeError for anything the invoicer would not have written."""
    return _decoder.decode(value)


def encode_invoice(message: InvoiceMessage) -> bytes:
    return msgspec.json.encode(message)
