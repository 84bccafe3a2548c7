"""`usage.windows.v1`: a changed window as it stands. The highest revision of a window is the truth.

A revision may be told twice, and says the same each time; a lower one may come after a higher one (a process that was
frozen while it sent): who reads keeps the highest. Numbers are exact decimal texts.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from shared.contracts.messages.event import Storable
from shared.domain.meter import Aggregation

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
Exact = Annotated[str, msgspec.Meta(pattern="^-?[0-9]+([.][0-9]+)?$")]


class WindowMessage(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One row of usage.window, and what its meter is.

    `dimensions`: canonical JSON of the group-by values, empty without any. `hour`: the UTC instant at which the local
    hour starts. `quantity`: of this hour, under the meter's aggregation; none for a weighted_sum (its level is not in
    the window) and for min, max, avg and latest of no events. `moment`: sum of value times microseconds since 1970.
    `distinct`: how many different values, for unique_count. `fingerprint`: sums of the halves of a 64-bit hash of each
    event's identity. `count` 0: the window holds nothing any more. `backfilled_before`: the meter was made then, and
    what is older was counted for it afterwards.
    """

    organisation_id: str
    project_id: str
    live: bool
    subject: Storable
    meter_id: str
    meter_version: int
    dimensions: str = ""
    hour: Instant
    revision: int
    updated_at: Instant
    aggregation: Aggregation
    billable: bool
    count: int
    sum: Exact
    fingerprint: tuple[int, int]
    quantity: Exact | None = None
    minimum: Exact | None = None
    maximum: Exact | None = None
    latest_time: Instant | None = None
    latest_id: str | None = None
    latest_value: Exact | None = None
    moment: Exact | None = None
    distinct: int | None = None
    backfilled_before: Instant | None = None


def window_key(message: WindowMessage) -> bytes:
    """Key of the record: which window it is."""
    mode = "live" if message.live else "test"
    return _encode(
        (
            *(message.project_id, mode, message.subject, message.meter_id, message.meter_version),
            *(message.dimensions, message.hour),
        )
    )


_decoder = msgspec.json.Decoder(WindowMessage)
_encode = msgspec.json.Encoder().encode


def encode_window(message: WindowMessage) -> bytes:
    return _encode(message)


def decode_window(value: bytes) -> WindowMessage:
    """Raises msgspec.DecodeError for anything the aggregator would not have written."""
    return _decoder.decode(value)
