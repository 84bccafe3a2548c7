"""What a back-fill asks of Postgres. SQL only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from services.aggregator.reconcile.archive import SegmentRow
from shared.postgres.pool import Connection
from shared.usage.backfill import MeterKey

MOST_SEGMENTS = 200
MOST_RECORDS = 10_000


class Stretch(NamedTuple):
    """What is left of one partition."""

    cut_id: int
    topic: str
    partition: int
    next_offset: int
    end_offset: int
    stored_before: datetime


async def stretches(connection: Connection) -> list[Stretch]:
    """Of all back-fills that are not finished, the oldest first."""
    cursor = await connection.execute(
        """
        SELECT cut_id, topic, partition, next_offset, end_offset, stored_before
        FROM usage.backfill_progress JOIN usage.backfill USING (cut_id)
        WHERE finished_at IS NULL AND next_offset < end_offset ORDER BY cut_id, partition
        """
    )
    return [Stretch(*row) for row in await cursor.fetchall()]


async def segments(connection: Connection, left: Stretch) -> tuple[list[SegmentRow], int]:
    """The next segments, a transaction's worth, and the offset after them; the end where there are none."""
    cursor = await connection.execute(
        # Records first, payloads of those that are wanted after that.
        """
        WITH next AS (
            SELECT topic, partition, first_offset,
                   sum(record_count) OVER (ORDER BY first_offset) - record_count AS before
            FROM (
                SELECT topic, partition, first_offset, record_count FROM usage.segment
                WHERE topic = %(topic)s AND partition = %(partition)s
                  AND first_offset >= %(start)s AND first_offset < %(end)s AND stored_at < %(stored_before)s
                ORDER BY first_offset LIMIT %(segments)s
            ) AS chosen
        )
        SELECT topic, partition, first_offset, last_offset, record_count, dispositions, sha256, payload, earliest_time,
               stored_at
        FROM next JOIN usage.segment USING (topic, partition, first_offset)
        WHERE before < %(records)s ORDER BY first_offset
        """,
        {
            "topic": left.topic,
            "partition": left.partition,
            "start": left.next_offset,
            "end": left.end_offset,
            "stored_before": left.stored_before,
            "segments": MOST_SEGMENTS,
            "records": MOST_RECORDS,
        },
        binary=True,
    )
    rows = [SegmentRow(*row) for row in await cursor.fetchall()]
    return rows, rows[-1].last_offset + 1 if rows else left.end_offset


async def move(connection: Connection, left: Stretch, to: int) -> bool:
    """False when somebody else has been there."""
    cursor = await connection.execute(
        """
        UPDATE usage.backfill_progress SET next_offset = %s
        WHERE cut_id = %s AND partition = %s AND next_offset = %s
        """,
        (to, left.cut_id, left.partition, left.next_offset),
    )
    return cursor.rowcount == 1


async def count(
    connection: Connection, cut_id: int, events: Mapping[MeterKey, int], refused: Mapping[MeterKey, int]
) -> None:
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            UPDATE usage.backfill_meter SET events = events + %s, refused = refused + %s
            WHERE cut_id = %s AND meter_id = %s AND meter_version = %s
            """,
            [(events.get(key, 0), refused.get(key, 0), cut_id, *key) for key in sorted({*events, *refused})],
        )


async def finish(connection: Connection, cut_id: int) -> bool:
    """Whether it is finished by this."""
    cursor = await connection.execute(
        """
        UPDATE usage.backfill SET finished_at = clock_timestamp()
        WHERE cut_id = %(cut)s AND finished_at IS NULL AND NOT EXISTS (
            SELECT FROM usage.backfill_progress WHERE cut_id = %(cut)s AND next_offset < end_offset
        )
        """,
        {"cut": cut_id},
    )
    return cursor.rowcount == 1


class Listed(NamedTuple):
    """A meter that was back-filled. `offsets`, `offsets_done`: of all partitions together."""

    meter_id: str
    meter_version: int
    cut_id: int
    begun_at: datetime
    finished_at: datetime | None
    events: int
    refused: int
    offsets: int
    offsets_done: int
    sealed_months: int


async def listed(connection: Connection, meters: Sequence[str] | None = None) -> list[Listed]:
    """The newest first. `sealed_months`: organisations' months that were sealed before, and are never billed for it."""
    cursor = await connection.execute(
        """
        SELECT meter_id, meter_version, cut_id, stored_before, finished_at, events, refused,
               coalesce((SELECT sum(end_offset - start_offset) FROM usage.backfill_progress AS of_cut
                         WHERE of_cut.cut_id = fill.cut_id), 0)::bigint,
               coalesce((SELECT sum(next_offset - start_offset) FROM usage.backfill_progress AS of_cut
                         WHERE of_cut.cut_id = fill.cut_id), 0)::bigint,
               (SELECT count(*) FROM usage.seal WHERE seal.cut_id < fill.cut_id)
        FROM usage.backfill_meter JOIN usage.backfill AS fill USING (cut_id)
        WHERE %(meters)s::text[] IS NULL OR meter_id = ANY(%(meters)s)
        ORDER BY cut_id DESC, meter_id
        """,
        {"meters": None if meters is None else list(meters)},
    )
    return [Listed(*row) for row in await cursor.fetchall()]


async def partitions(connection: Connection, cut_id: int) -> list[tuple[int, int, int, int]]:
    """Partition, start, next and end offset."""
    cursor = await connection.execute(
        """
        SELECT partition, start_offset, next_offset, end_offset FROM usage.backfill_progress
        WHERE cut_id = %s ORDER BY partition
        """,
        (cut_id,),
    )
    return [(row[0], row[1], row[2], row[3]) for row in await cursor.fetchall()]
