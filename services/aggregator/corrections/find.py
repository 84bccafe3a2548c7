"""Find the events that corrections are about: where an identity was counted, and what stands there in the archive."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from services.aggregator.corrections.decide import Target
from shared.contracts.messages.event import decode_content, decode_event
from shared.domain.errors import Fatal, Rejected
from shared.kafka.records import Record
from shared.postgres.binary import Int4Array, Int8Array, UuidArray
from shared.postgres.pool import Connection
from shared.usage.backfill import Views
from shared.usage.event import Metering, UsageEvent
from shared.usage.segment import Disposition, from_letters, unpack

MOST_BYTES = 64 * 1024 * 1024  # of events remembered beyond the batch that needs them
EACH_BYTES = 1_000  # besides its value

FIRST_SIGHTINGS = frozenset(
    (
        *(Disposition.COUNTED, Disposition.TEST, Disposition.ADJUSTMENT, Disposition.UNMETERED),
        Disposition.CORRECTION,
    )
)

Place = tuple[int, int]
"""Partition and offset in usage.events.v1."""


class Original(NamedTuple):
    """An event as the archive has it. `record` None: its segment is not here, or cannot be read (and why)."""

    place: Place
    record: Record | None
    disposition: Disposition | None = None
    stored_at: datetime | None = None
    why: str = ""


async def places(connection: Connection, keys: Collection[bytes]) -> dict[bytes, Place]:
    """Where each of these identities was counted; those that are not known are not there."""
    if not keys:
        return {}
    rows = await (
        await connection.execute(
            # One probe of each generation's index for each key. Corrections are few, so no filter is asked.
            """
            SELECT probe.key, standing.partition, standing.log_offset
            FROM unnest(%b::uuid[]) AS probe (key) CROSS JOIN usage.generation CROSS JOIN LATERAL (
                SELECT partition, log_offset FROM usage.identity
                WHERE identity.generation = generation.id AND identity.key = probe.key LIMIT 1
            ) AS standing
            WHERE generation.detached_at IS NULL
            """,
            (UuidArray(sorted(keys)),),
            binary=True,
        )
    ).fetchall()
    return {key.bytes: (partition, offset) for key, partition, offset in rows}


class Originals:
    """Reads events from the archive and remembers some: what stands there never changes, so a batch that is tried
    again, or reads ahead of its transaction, takes apart no segment twice."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Place], Original] = {}
        self._bytes = 0

    async def read(self, connection: Connection, topic: str, wanted: Sequence[Place]) -> dict[Place, Original]:
        """Every one of them, segment by segment."""
        found = {place: known for place in wanted if (known := self._known.get((topic, place))) is not None}
        by_segment: dict[tuple[int, int], list[Place]] = {}
        for place, first_offset in await _segments(connection, topic, sorted(set(wanted) - found.keys())):
            by_segment.setdefault((place[0], first_offset), []).append(place)
        for (partition, first_offset), mine in by_segment.items():
            for original in await _in_segment(connection, topic, partition, first_offset, set(mine)):
                found[original.place] = original
                if original.record is not None:
                    self._known[topic, original.place] = original
                    self._bytes += len(original.record.value or b"") + EACH_BYTES
        return {place: found.get(place) or Original(place, None, why="its segment is not here") for place in wanted}

    def begin(self) -> None:
        """Another batch: give up what was remembered, if that is much."""
        if self._bytes > MOST_BYTES:
            self.forget()

    def forget(self) -> None:
        self._known.clear()
        self._bytes = 0


async def _segments(connection: Connection, topic: str, wanted: Sequence[Place]) -> list[tuple[Place, int]]:
    """First offset of the segment that holds each place; segments of a partition share no offset."""
    if not wanted:
        return []
    rows = await (
        await connection.execute(
            """
            SELECT wanted.number, wanted.log_offset, standing.first_offset
            FROM unnest(%b::integer[], %b::bigint[]) AS wanted (number, log_offset) CROSS JOIN LATERAL (
                SELECT first_offset, last_offset FROM usage.segment
                WHERE topic = %b::text AND partition = wanted.number AND first_offset <= wanted.log_offset
                ORDER BY first_offset DESC LIMIT 1
            ) AS standing
            WHERE standing.last_offset >= wanted.log_offset
            ORDER BY wanted.number, wanted.log_offset
            """,
            (Int4Array([place[0] for place in wanted]), Int8Array([place[1] for place in wanted]), topic),
            binary=True,
        )
    ).fetchall()
    return [((partition, offset), first) for partition, offset, first in rows]


async def _in_segment(
    connection: Connection, topic: str, partition: int, first_offset: int, wanted: set[Place]
) -> list[Original]:
    row = await (
        await connection.execute(
            """
            SELECT payload, sha256, dispositions, stored_at FROM usage.segment
            WHERE topic = %s AND partition = %s AND first_offset = %s
            """,
            (topic, partition, first_offset),
            binary=True,
        )
    ).fetchone()
    assert row is not None, "a segment never goes"
    payload, sha256, letters, stored_at = row
    try:
        records = unpack(topic, partition, payload, sha256)
    except Fatal as damaged:
        return [Original(place, None, why=str(damaged)) for place in wanted]
    return [
        Original((partition, record.offset), record, disposition, stored_at)
        for record, disposition in zip(records, from_letters(letters), strict=True)
        if (partition, record.offset) in wanted
    ]


def target_of(original: Original, views: Views, first_meters: Mapping[str, datetime]) -> Target:
    """The original as it was counted, by back-fills too. Raises Rejected (`target_unreadable`)."""
    record, disposition = original.record, original.disposition
    if record is None or record.value is None or disposition is None:
        raise Rejected("target_unreadable", f"its target cannot be read: {original.why}")
    if disposition not in FIRST_SIGHTINGS:
        # A hole of the archive was filled from the log, where its identity made a duplicate of it.
        raise Rejected("target_unreadable", "what became of its target is not in the archive any more")
    assert original.stored_at is not None
    view = views.at(record.topic, record.partition, record.offset, original.stored_at)
    try:
        content = decode_content(record.value)
        made = first_meters.get(content.type)
        # A test event of a type that had no meter yet is in no window, whatever meters there are by now.
        meterless = content.unmetered and disposition is Disposition.UNMETERED
        if content.unmetered and disposition is Disposition.TEST:
            meterless = made is None or made > original.stored_at
        filled = meterless and bool(view.filled)
        if disposition is Disposition.ADJUSTMENT:
            event = view.late(content)
        else:
            event = view.uncounted(content) if meterless else view.counted(content)
    except (Rejected, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Rejected("target_unreadable", f"its target is no event today: {error}") from None
    uncounted = meterless and not filled
    place = (record.partition, record.offset)
    return Target(record.value, event, disposition, *place, uncounted, view, meterless)


def target_in_batch(record: Record, event: UsageEvent, disposition: Disposition, metering: Metering) -> Target:
    """An event of the batch itself, which no segment holds yet."""
    assert record.value is not None
    stamped = decode_event(record.value)
    # As `target_of` will say once it is in the archive.
    uncounted = stamped.unmetered and (
        disposition is Disposition.UNMETERED
        or (disposition is Disposition.TEST and stamped.type not in metering.meters.by_type)
    )
    return Target(record.value, event, disposition, record.partition, record.offset, uncounted)
