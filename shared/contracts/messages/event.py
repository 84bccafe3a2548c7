"""`usage.events.v1`: one validated event, stamped by ingest.

It stays a CloudEvents 1.0 JSON document: what the producer sent, `time` filled in, and Khata's stamps
as extension attributes. `data` is carried as the bytes the producer sent, so no number is ever rounded.
msgspec decodes it (0.5 us an event) because everything here was validated at the door.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec

from shared.domain.identity import exact_number

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
# A text that Postgres takes: it has no NUL.
Storable = Annotated[str, msgspec.Meta(pattern="^[^\\x00]*$")]


class StampedEvent(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An accepted usage event. `time` is UTC; `project` is proven by the key or the broker's ACL."""

    id: str
    source: str
    type: str
    subject: Storable
    time: Instant
    project: str
    live: bool
    ingestedat: Instant
    ingestid: str  # the ingest process that wrote the record
    specversion: str = "1.0"
    data: msgspec.Raw = msgspec.Raw(b"null")
    keyid: str = ""  # API key, empty for the Kafka door
    catalogueversion: int = 0
    unmetered: bool = False  # no meter counted this type when it was accepted; the project allows that


class EventContent(msgspec.Struct, frozen=True, gc=False):
    """A stamped event with its `data` read, with exact numbers: one pass over the bytes.

    It takes what `StampedEvent` takes and nothing else, for others read the same record with that.
    """

    id: str
    source: str
    type: str
    subject: str
    time: Instant
    project: str
    live: bool
    ingestedat: Instant
    ingestid: str
    specversion: str = "1.0"
    data: Any = None
    keyid: str = ""
    catalogueversion: int = 0
    unmetered: bool = False


def event_key(project: str, subject: str) -> bytes:
    """Key of the record: what is about one subject of a project is in order, on one partition."""
    return f"{project}/{subject}".encode()


_decoder = msgspec.json.Decoder(StampedEvent)
_content_decoder = msgspec.json.Decoder(EventContent, float_hook=exact_number)
_encoder = msgspec.json.Encoder()


def decode_event(value: bytes) -> StampedEvent:
    """Raises msgspec.DecodeError (ValidationError included) for anything ingest would not have written."""
    return _decoder.decode(value)


def decode_content(value: bytes) -> EventContent:
    """Raises msgspec.DecodeError; UnicodeError and RecursionError for worse. Depth and NULs are not looked at."""
    return _content_decoder.decode(value)


def encode_event(event: StampedEvent) -> bytes:
    return _encoder.encode(event)
