"""Where a group goes on: offsets in Postgres, moved in the transaction that applies the records.

`move` is a compare-and-set: a zombie, a redelivery or a second owner finds another `next_offset` than
the one it read from and is Fenced, so repeated work never has a repeated effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.domain.errors import Fenced, LogMoved
from shared.kafka.records import OffsetRange, Partition
from shared.postgres.pool import Connection

# What whoever reads of a log that moved can do.
GO_ON = "Restore the topic, or go on with the log as it is: `khata offsets rewind`, once no process of the group runs."


@dataclass(frozen=True, slots=True)
class StoredOffset:
    """`last_offset` and `last_digest` are of the last record applied; None when nothing was, or not kept."""

    next_offset: int
    last_offset: int | None = None
    last_digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Where to seek, and the record that must still be there (checked when it arrives, never applied)."""

    seek: int
    position: int
    verify_offset: int | None = None
    verify_digest: bytes | None = None
    warning: str | None = None


def decide_start(name: str, stored: StoredOffset | None, log_start: int, log_end: int) -> Start:
    """Where a partition goes on. Raises LogMoved when the log cannot be the one we read.

    A group without a stored offset starts at the log's beginning. A re-created or truncated topic must
    never look like "already applied".
    """
    if stored is None:
        return Start(seek=log_start, position=log_start)
    if stored.next_offset > log_end:
        raise LogMoved(
            f"{name} ends at {log_end}, but {stored.next_offset} records of it were applied: the topic was "
            f"truncated or made anew. {GO_ON}"
        )
    if stored.next_offset < log_start:
        raise LogMoved(
            f"{name} begins at {log_start}, but only {stored.next_offset} was reached: retention took "
            f"{log_start - stored.next_offset} records that were never applied. Have them sent again. {GO_ON}"
        )
    if stored.last_offset is None or stored.last_digest is None:
        return Start(seek=stored.next_offset, position=stored.next_offset)
    if stored.last_offset < log_start:
        return Start(
            seek=stored.next_offset,
            position=stored.next_offset,
            warning=f"{name}: retention took the last applied record {stored.last_offset}; it cannot be compared",
        )
    return Start(stored.last_offset, stored.next_offset, stored.last_offset, stored.last_digest)


async def stored(
    connection: Connection, group: str, partitions: Sequence[Partition]
) -> dict[Partition, StoredOffset | None]:
    """Stored offsets of these partitions, None where the group has none yet."""
    rows = await (
        await connection.execute(
            """
            SELECT topic, partition, next_offset, last_offset, last_digest FROM messaging.consumer_offset
            WHERE consumer_group = %s
            """,
            (group,),
        )
    ).fetchall()
    found = {Partition(row[0], row[1]): StoredOffset(row[2], row[3], row[4]) for row in rows}
    return {partition: found.get(partition) for partition in partitions}


async def move(connection: Connection, group: str, ranges: Sequence[OffsetRange]) -> None:
    """Move every range or raise Fenced. Rows are locked in order of (topic, partition).

    A first move inserts the row, so that two first owners meet on the primary key. A damaged last record is not kept
    for comparison: no start could read it.
    """
    for moved in sorted(ranges, key=lambda moved: (moved.topic, moved.partition)):
        values = {
            "group": group,
            "topic": moved.topic,
            "partition": moved.partition,
            "start": moved.start,
            "end": moved.end,
            "last_offset": None if moved.last.damaged else moved.last.offset,
            "last_digest": None if moved.last.damaged else moved.last.digest(),
        }
        cursor = await connection.execute(
            """
            UPDATE messaging.consumer_offset
            SET next_offset = %(end)s, last_offset = %(last_offset)s, last_digest = %(last_digest)s,
                updated_at = now()
            WHERE consumer_group = %(group)s AND topic = %(topic)s AND partition = %(partition)s
              AND next_offset = %(start)s
            """,
            values,
        )
        if cursor.rowcount == 1:
            continue
        cursor = await connection.execute(
            """
            INSERT INTO messaging.consumer_offset
                (consumer_group, topic, partition, next_offset, last_offset, last_digest)
            VALUES (%(group)s, %(topic)s, %(partition)s, %(end)s, %(last_offset)s, %(last_digest)s)
            ON CONFLICT DO NOTHING
            """,
            values,
        )
        if cursor.rowcount != 1:
            raise Fenced(f"{moved.topic}[{moved.partition}]: another owner has moved past {moved.start}")
