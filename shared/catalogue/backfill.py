"""Begin a back-fill: new meters, effective from the beginning of time, and the cut below which a worker counts.

In the transaction that makes the meters, under the exclusive epoch lock: no batch is in flight at the cut, and every
later one counts with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.types.json import Jsonb

from shared.domain.errors import Usage
from shared.domain.meter import Meter
from shared.postgres.pool import Connection


@dataclass(frozen=True, slots=True)
class Events:
    """Where events are counted from: real names of the topic and of the group that counts."""

    topic: str
    group: str


async def begin(connection: Connection, events: Events, meters: Sequence[Meter], epoch_version: int) -> int:
    """The cut's id. The caller holds the epoch lock exclusively, and has inserted the meters.

    Raises Usage while a part of the log is applied again after a rewind: the cut would lie inside of it.
    """
    rows = await (
        await connection.execute(
            # Two probes of the archive's key for each partition: batches wait for this transaction.
            """
            SELECT partition, next_offset,
                   coalesce((SELECT first_offset FROM usage.segment
                             WHERE segment.topic = applied.topic AND segment.partition = applied.partition
                             ORDER BY first_offset LIMIT 1), next_offset),
                   coalesce((SELECT last_offset + 1 FROM usage.segment
                             WHERE segment.topic = applied.topic AND segment.partition = applied.partition
                             ORDER BY first_offset DESC LIMIT 1), 0)
            FROM messaging.consumer_offset AS applied
            WHERE consumer_group = %s AND topic = %s ORDER BY partition
            """,
            (events.group, events.topic),
        )
    ).fetchall()
    for partition, position, _, archived in rows:
        if position < archived:
            raise Usage(
                f"{events.topic}[{partition}] is read again from {position}, and was applied up to {archived} before: "
                "apply the catalogue once that is done (`khata offsets show` tells)"
            )
    offsets = {events.topic: {int(partition): position for partition, position, _, _ in rows}}
    row = await (
        await connection.execute(
            "INSERT INTO usage.cut (epoch_version, offsets) VALUES (%s, %s) RETURNING id",
            (epoch_version, Jsonb(offsets)),
        )
    ).fetchone()
    assert row is not None
    cut_id = int(row[0])
    filled = [(partition, start, end) for partition, end, start, _ in rows if start < end]
    await connection.execute(
        # The clock now, not this transaction's: batches that the lock waited for began after that.
        """
        INSERT INTO usage.backfill (cut_id, topic, stored_before, finished_at)
        VALUES (%(cut)s, %(topic)s, clock_timestamp(), CASE WHEN %(nothing)s THEN clock_timestamp() END)
        """,
        {"cut": cut_id, "topic": events.topic, "nothing": not filled},
    )
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO usage.backfill_meter (meter_id, meter_version, cut_id) VALUES (%s, %s, %s)",
            [(meter.id, meter.version, cut_id) for meter in meters],
        )
        await cursor.executemany(
            """
            INSERT INTO usage.backfill_progress (cut_id, partition, start_offset, next_offset, end_offset)
            VALUES (%s, %s, %s, %s, %s)
            """,
            [(cut_id, partition, start, start, end) for partition, start, end in filled],
        )
    return cut_id
