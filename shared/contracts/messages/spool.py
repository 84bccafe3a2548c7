"""`spools.v1`: what a spool says of itself. Compacted by spool id: the last word of each is kept.

Whoever closes a period waits until every spool that is not retired has said, `as_of` after the cut-off,
that it holds nothing unsent accepted before it. `as_of` comes from the clock that also stamps what is
accepted: whatever is accepted after a statement is stamped at or after its `as_of`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class SpoolState(msgspec.Struct, frozen=True, kw_only=True):
    """One statement. Totals count events since the spool was made, across restarts."""

    spool_id: str
    instance: str  # name of the process that owns it, for people
    as_of: Instant
    oldest_unsent_at: Instant | None  # acceptance of the oldest event Kafka does not have; None when it has all
    unsent_events: int  # accepted_total - forwarded_total
    unsent_bytes: int  # as stored, compressed
    set_aside_events: int  # of the unsent: refused by Kafka for good, waiting for a person
    accepted_total: int
    forwarded_total: int
    lost_total: int  # accepted once, then gone with a damaged write-ahead log; more than 0 is a finding
    fingerprint: tuple[int, int]  # of all accepted, order-free over (key, value)
    forwarded_fingerprint: tuple[int, int]  # equal to `fingerprint` when nothing is unsent
    file_bytes: int
    cap_bytes: int
    retired: bool  # it will never accept again and has nothing unsent

    def has_unsent_before(self, instant: datetime) -> bool:
        """True while an event accepted before `instant` is not in Kafka."""
        return self.oldest_unsent_at is not None and self.oldest_unsent_at < instant


_decoder = msgspec.json.Decoder(SpoolState)


def encode_spool(state: SpoolState) -> bytes:
    return msgspec.json.encode(state)


def decode_spool(value: bytes) -> SpoolState:
    """Raises msgspec.DecodeError for anything a spool would not have written."""
    return _decoder.decode(value)
