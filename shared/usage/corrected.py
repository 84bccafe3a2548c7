"""Events that were corrected: what stands of them in windows, and after all adjustments.

A correction that was applied while the month was open is a part of the month for ever, one applied after the seal never
is: so windows are counted again with the former only. One of an event that no meter counted changed nothing, until a
meter was back-filled that counts it: then it is a part of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from shared.contracts.messages.event import EventContent
from shared.domain.identity import read_data
from shared.postgres.pool import Connection


class Corrected(NamedTuple):
    """The last correction of an event, and where it stands in usage.events.v1. `data` None: a void."""

    data: bytes | None
    partition: int
    offset: int

    def content(self, sent: EventContent) -> EventContent | None:
        """The event with its new data; None when it was taken back."""
        return None if self.data is None else msgspec.structs.replace(sent, data=read_data(self.data))


async def in_windows(
    connection: Connection, organisations: Sequence[str], start: datetime, end: datetime
) -> dict[bytes, Corrected]:
    """By identity: what windows of [start, end) (starts of hours) hold of events that were corrected."""
    return await _last(connection, _IN_WINDOWS, organisations, start, end)


async def after_seal(
    connection: Connection, organisations: Sequence[str], start: datetime, end: datetime
) -> dict[bytes, Corrected]:
    """By identity: what stands of events of [start, end) that were corrected by adjustments."""
    return await _last(connection, _AFTER_SEAL, organisations, start, end)


_COLUMNS = "target_key, data, partition, log_offset"
_IN_WINDOWS, _AFTER_SEAL = (
    f"""
    SELECT DISTINCT ON (target_key) {_COLUMNS} FROM usage.correction
    WHERE state = 'applied' AND applied_as IN ({applied_as})
      AND organisation_id = ANY(%s) AND target_hour >= %s AND target_hour < %s
    ORDER BY target_key, sequence DESC
    """.encode()  # noqa: S608 - constants
    for applied_as in ("'window', 'nothing'", "'adjustment'")
)


async def _last(
    connection: Connection, query: bytes, organisations: Sequence[str], start: datetime, end: datetime
) -> dict[bytes, Corrected]:
    cursor = await connection.execute(query, (list(organisations), start, end), binary=True)
    return {row[0].bytes: Corrected(*row[1:]) for row in await cursor.fetchall()}
