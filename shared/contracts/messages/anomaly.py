"""`anomalies.v1`: what watch found unusual about a key. `id` is made of class, key and minute: stored once."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import msgspec

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Class(StrEnum):
    NEW_ADDRESS = "new_address"
    SPIKE = "spike"
    SILENT = "silent"
    FAILURE_BURST = "failure_burst"


class Anomaly(msgspec.Struct, frozen=True, kw_only=True):
    """`observed` against `usual`: events or failed calls in that minute, or minutes without an event."""

    id: str
    found: Class = msgspec.field(name="class")
    key_id: str
    project_id: str | None
    organisation_id: str | None
    minute: Instant
    observed: Count
    usual: Count
    text: str  # one sentence for people
    address: str | None = None  # of a new address, as key activity has it: hashed unless a setting says otherwise


def finding_id(found: Class, key_id: str, minute: int, more: str = "") -> str:
    """`minute` counts from the epoch; `more` tells findings of one class and minute apart."""
    return hashlib.sha256(f"{found}|{key_id}|{minute}|{more}".encode()).hexdigest()[:32]


def instant(minute: int) -> datetime:
    return datetime.fromtimestamp(minute * 60, UTC)


_decoder = msgspec.json.Decoder(Anomaly)


def encode_anomaly(anomaly: Anomaly) -> bytes:
    return msgspec.json.encode(anomaly)


def decode_anomaly(value: bytes) -> Anomaly:
    """Raises msgspec.DecodeError for anything watch would not have written."""
    return _decoder.decode(value)
