"""What the archive has was applied: read again after a rewind, it has no second effect.

Only the very records: where others stand at their offsets, the topic was made anew, and nothing of it may look applied.

The segment of a record is written in the transaction that gives the record its effect, so nothing else has to be asked;
not the identities, of which old ones are given up, and not the catalogue: what was rejected stays a dead letter, and a
redrive is what makes it count.
"""

from __future__ import annotations

from services.aggregator.batch import PreparedBatch, prepare
from shared.domain.errors import LogMoved
from shared.kafka.records import Batch, OffsetRange, Record
from shared.postgres.pool import Connection
from shared.usage.segment import unpack


async def without_archived(connection: Connection, prepared: PreparedBatch) -> PreparedBatch:
    """The batch itself, or the part of it that is new; its offset ranges stay whole. Raises LogMoved."""
    applied: dict[Place, bytes] = {}
    for one in await _overlapping(connection, prepared.batch.ranges):
        applied |= await _digests(connection, one)
    if not applied:
        return prepared
    for record in prepared.batch.records:
        if applied.get(_place(record), record.digest()) != record.digest():
            raise LogMoved(
                f"{record.topic}[{record.partition}]: the record at {record.offset} is not the one that was applied: "
                "the topic was made anew, and its records cannot stand where the archive has others"
            )
    new = tuple(record for record in prepared.batch.records if _place(record) not in applied)
    return await prepare(Batch(new, prepared.batch.ranges), prepared.reader)


Place = tuple[str, int, int]


def _place(record: Record) -> Place:
    return (record.topic, record.partition, record.offset)


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


async def _digests(connection: Connection, moved: OffsetRange) -> dict[Place, bytes]:
    """Of every record in the segments that the range touches."""
    cursor = await connection.execute(
        """
        SELECT payload, sha256 FROM usage.segment
        WHERE topic = %(topic)s AND partition = %(partition)s AND first_offset < %(end)s AND last_offset >= %(start)s
          AND first_offset >= coalesce((
              SELECT max(first_offset) FROM usage.segment
              WHERE topic = %(topic)s AND partition = %(partition)s AND first_offset <= %(start)s
          ), 0)
        """,
        {"topic": moved.topic, "partition": moved.partition, "start": moved.start, "end": moved.end},
    )
    found: dict[Place, bytes] = {}
    for payload, sha256 in await cursor.fetchall():
        for record in unpack(moved.topic, moved.partition, payload, sha256):
            found[_place(record)] = record.digest()
    return found
