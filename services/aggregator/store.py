"""What a batch writes besides identities: windows, segments, conflicts, adjustments. SQL only, no decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from shared.kafka.records import Record
from shared.postgres.pool import Connection
from shared.usage.event import UsageEvent
from shared.usage.fold import WindowKey
from shared.usage.parts import Parts
from shared.usage.segment import Disposition, Segment, letters


async def merge_windows(connection: Connection, deltas: Mapping[WindowKey, Parts]) -> None:
    """Add each delta to its window. Rows are locked in order of key."""
    if not deltas:
        return
    # In the order of the primary key, so that two batches never wait for each other crosswise.
    rows = sorted(deltas.items(), key=lambda item: item[0][1:])
    parts = [each for _, each in rows]
    await connection.execute(
        """
        INSERT INTO usage.window AS stored (
            organisation_id, project_id, live, subject, meter_id, meter_version, dimensions, hour,
            count, sum, fingerprint_high, fingerprint_low,
            minimum, maximum, latest_time, latest_id, latest_value, moment
        )
        SELECT * FROM unnest(
            %s::text[], %s::text[], %s::boolean[], %s::text[], %s::text[], %s::integer[], %s::text[],
            %s::timestamptz[], %s::bigint[], %s::numeric[], %s::bigint[], %s::bigint[],
            %s::numeric[], %s::numeric[], %s::timestamptz[], %s::text[], %s::numeric[], %s::numeric[]
        )
        ON CONFLICT (project_id, live, subject, meter_id, meter_version, dimensions, hour) DO UPDATE SET
            count = stored.count + excluded.count,
            sum = stored.sum + excluded.sum,
            fingerprint_high = stored.fingerprint_high + excluded.fingerprint_high,
            fingerprint_low = stored.fingerprint_low + excluded.fingerprint_low,
            minimum = least(stored.minimum, excluded.minimum),
            maximum = greatest(stored.maximum, excluded.maximum),
            (latest_time, latest_id, latest_value) = (
                SELECT time, id, value FROM (VALUES
                    (stored.latest_time, stored.latest_id, stored.latest_value),
                    (excluded.latest_time, excluded.latest_id, excluded.latest_value)
                ) AS candidate (time, id, value)
                ORDER BY time DESC NULLS LAST, id DESC, value DESC LIMIT 1
            ),
            moment = stored.moment + excluded.moment,
            revision = stored.revision + 1,
            updated_at = now()
        """,
        (
            *([key[column] for key, _ in rows] for column in range(8)),
            [each.count for each in parts],
            [each.sum for each in parts],
            [each.fingerprint.high for each in parts],
            [each.fingerprint.low for each in parts],
            [each.minimum for each in parts],
            [each.maximum for each in parts],
            *([each.latest and each.latest[column] for each in parts] for column in range(3)),
            [each.moment for each in parts],
        ),
    )
    await _merge_distinct(connection, rows)


async def _merge_distinct(connection: Connection, rows: Sequence[tuple[WindowKey, Parts]]) -> None:
    """Values that unique_count tells apart; the windows' order, then that of the digests."""
    values = [
        (*key, UUID(bytes=digest), events)
        for key, each in rows
        for digest, events in sorted((each.distinct or {}).items())
    ]
    if not values:
        return
    await connection.execute(
        """
        INSERT INTO usage.distinct_value AS stored (
            organisation_id, project_id, live, subject, meter_id, meter_version, dimensions, hour, digest, events
        )
        SELECT * FROM unnest(
            %s::text[], %s::text[], %s::boolean[], %s::text[], %s::text[], %s::integer[], %s::text[],
            %s::timestamptz[], %s::uuid[], %s::bigint[]
        )
        ON CONFLICT (project_id, live, subject, meter_id, meter_version, dimensions, hour, digest)
            DO UPDATE SET events = stored.events + excluded.events
        """,
        [[value[column] for value in values] for column in range(10)],
    )


async def store_segments(
    connection: Connection, segments: Sequence[tuple[int, Segment]], dispositions: Sequence[Disposition]
) -> None:
    """Each segment with the dispositions of its records; `dispositions` covers the whole batch."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            INSERT INTO usage.segment (
                topic, partition, first_offset, last_offset, record_count, earliest_time, latest_time,
                dispositions, sha256, payload
            ) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (
                    segment.topic,
                    segment.partition,
                    segment.first_offset,
                    segment.last_offset,
                    segment.record_count,
                    segment.earliest,
                    segment.latest,
                    letters(dispositions[first : first + segment.record_count]),
                    segment.sha256,
                    segment.payload,
                )
                for first, segment in segments
            ],
        )


async def record_conflicts(connection: Connection, conflicts: Sequence[tuple[Record, UsageEvent]]) -> None:
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            INSERT INTO usage.conflict (organisation_id, project_id, key, fingerprint, partition, log_offset)
            VALUES (%s, %s, %s, %s, %s, %s)
            """,
            [
                (
                    event.organisation_id,
                    event.project_id,
                    UUID(bytes=event.key),
                    event.fingerprint,
                    record.partition,
                    record.offset,
                )
                for record, event in conflicts
            ],
        )


async def record_adjustments(connection: Connection, late: Sequence[tuple[Record, UsageEvent]]) -> None:
    """One unbilled row per event and meter; billing them is the invoicer's."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            INSERT INTO usage.adjustment (
                organisation_id, project_id, subject, meter_id, meter_version, dimensions, hour, key, value,
                time, event_id, digest, partition, log_offset
            ) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (
                    event.organisation_id,
                    event.project_id,
                    event.subject,
                    reading.meter.id,
                    reading.meter.version,
                    reading.dimensions,
                    event.hour,
                    UUID(bytes=event.key),
                    reading.value,
                    event.time,
                    event.id,
                    UUID(bytes=reading.distinct) if reading.distinct else None,
                    record.partition,
                    record.offset,
                )
                for record, event in late
                for reading in event.readings
            ],
        )
