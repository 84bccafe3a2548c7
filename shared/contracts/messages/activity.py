"""`keys.activity.v1`: what one ingest process saw of one key in one minute. Advice, never money.

Counted per call, published after the minute. A process that dies takes the minute it had not published with it.
(key, minute, process) is the identity: a record that is there twice says the same twice.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

UNKNOWN = "unknown"  # the key id of calls whose key nobody knows; no key's id is as short
DOOR_PREFIX = "door:"  # before a project: its events over the Kafka door, where there are no keys
MOST_ADDRESSES = 64

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class KeyActivity(msgspec.Struct, frozen=True, kw_only=True):
    """`minute` is its start. Addresses are those of calls with the right key (of any call for `unknown`).

    An address is `<scheme>.<text>`: `clear.192.0.2.7`, or a hash under the pepper that the scheme names. IPv6 counts
    by its /64 network. Up to 64 are listed; then `addresses_overflow` is true and `address_count` goes on to 1,024.
    """

    minute: Instant
    key_id: str
    process_id: str
    project_id: str | None = None
    organisation_id: str | None = None
    calls: Count = 0
    accepted: Count = 0  # events
    rejected: Count = 0  # events
    failed: dict[str, Count] = {}  # calls, by the code of the problem they were answered with
    addresses: tuple[str, ...] = ()
    address_count: Count = 0
    addresses_overflow: bool = False


_decoder = msgspec.json.Decoder(KeyActivity)
_encoder = msgspec.json.Encoder(order="deterministic")


def encode_activity(activity: KeyActivity) -> bytes:
    return _encoder.encode(activity)


def decode_activity(value: bytes) -> KeyActivity:
    """Raises msgspec.DecodeError for anything ingest would not have written."""
    return _decoder.decode(value)
