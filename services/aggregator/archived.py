"""What the archive has was applied: read again after a rewind, it has no second effect.

The segment of a record is written in the transaction that gives the record its effect, so nothing else has to be asked;
not the identities, of which old ones are given up, and not the catalogue: what was rejected stays a dead letter, and a
redrive is what makes it count.
"""

from __future__ import annotations

from services.aggregator.batch import PreparedBatch, prepare
from shared.kafka.records import Batch, OffsetRange
from shared.postgres.pool import Connection

Interval = tuple[int, int]


async def without_archived(connection: Connection, prepared: PreparedBatch) -> PreparedBatch:
    """The batch itself, or the part of it that is new; its offset ranges stay whole."""
    intervals = {
        (one.topic, one.partition): await _intervals(connection, one)
        for one in await _overlapping(connection, prepared.batch.ranges)
    }
    if not intervals:
        return prepared
    new = tuple(
        record
        for record in prepared.batch.records
        if not any(a <= record.offset <= b for a, b in intervals.get((record.topic, record.partition), ()))
    )
    return prepare(Batch(new, prepared.batch.ranges))


async def _overlapping(connection: Connection, ranges: tuple[OffsetRange, ...]) -> list[OffsetRange]:
    """Ranges that begin before their partition's archive ends: none, unless the group was rewound."""
    cursor = await connection.execute(
        # By the primary key from its end: one row a partition, however long the archive is.
        """
        SELECT place FROM unnest(%s::text[], %s::integer[], %s::bigint[])
            WITH ORDINALITY AS moved (topic, partition, start, place)
        WHERE start <= (
            SELECT last_offset FROM usage.segment
            WHERE segment.topic = moved.topic AND segment.partition = moved.partition
            ORDER BY first_offset DESC LIMIT 1
        )
        """,
        ([one.topic for one in ranges], [one.partition for one in ranges], [one.start for one in ranges]),
    )
    return [ranges[row[0] - 1] for row in await cursor.fetchall()]


async def _intervals(connection: Connection, moved: OffsetRange) -> list[Interval]:
    """First and last offset of the segments that the range touches."""
    cursor = await connection.execute(
        """
        SELECT first_offset, last_offset FROM usage.segment
        WHERE topic = %(topic)s AND partition = %(partition)s AND first_offset < %(end)s AND last_offset >= %(start)s
          AND first_offset >= coalesce((
              SELECT max(first_offset) FROM usage.segment
              WHERE topic = %(topic)s AND partition = %(partition)s AND first_offset <= %(start)s
          ), 0)
        """,
        {"topic": moved.topic, "partition": moved.partition, "start": moved.start, "end": moved.end},
    )
    return [(row[0], row[1]) for row in await cursor.fetchall()]
