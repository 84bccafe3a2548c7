"""`anomalies.v1`: what watch found unusual. `id` is made of class, key or window, and minute: stored once."""

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
    HOUR_SPIKE = "hour_spike"
    HOUR_DROP = "hour_drop"
    NEGATIVE_QUANTITY = "negative_quantity"
    LATE_CHANGE = "late_change"


class AboutWindow(msgspec.Struct, frozen=True, kw_only=True):
    """Of a finding about an hour of usage. Quantities are exact decimal texts (numbers of events, where hours do not
    add up); `usual_quantity`: the median of the last two days, or what the hour was before."""

    subject: str
    meter_id: str
    meter_version: int
    dimensions: str | msgspec.UnsetType = msgspec.UNSET  # canonical JSON
    quantity: str
    usual_quantity: str | msgspec.UnsetType = msgspec.UNSET


class Anomaly(msgspec.Struct, frozen=True, kw_only=True):
    """`observed` against `usual`: events or failed calls in that minute, minutes without an event, or, about a window,
    events of the hour that starts at `minute`; then there is no key."""

    id: str
    found: Class = msgspec.field(name="class")
    key_id: str | None
    project_id: str | None
    organisation_id: str | None
    minute: Instant
    observed: Count
    usual: Count
    text: str  # one sentence for people
    window: AboutWindow | msgspec.UnsetType = msgspec.UNSET
    address: str | None = None  # of a new address, as key activity has it: hashed unless a setting says otherwise


def finding_id(found: Class, about: str, minute: int, more: str = "") -> str:
    """`about`: the key, or the series of windows. `minute` counts from the epoch; `more` tells several of one apart."""
    return hashlib.sha256(f"{found}|{about}|{minute}|{more}".encode()).hexdigest()[:32]


def instant(minute: int) -> datetime:
    return datetime.fromtimestamp(minute * 60, UTC)


_decoder = msgspec.json.Decoder(Anomaly)


def encode_anomaly(anomaly: Anomaly) -> bytes:
    return msgspec.json.encode(anomaly)


def decode_anomaly(value: bytes) -> Anomaly:
    """Raises msgspec.DecodeError for anything watch would not have written."""
    return _decoder.decode(value)
