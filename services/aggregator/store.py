"""What a batch writes besides identities: windows, segments, conflicts, adjustments. SQL only, no decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from shared.kafka.records import Record
from shared.postgres.pool import Connection
from shared.usage.event import UsageEvent
from shared.usage.fold import WindowDelta, WindowKey
from shared.usage.segment import Disposition, Segment, letters


async def merge_windows(connection: Connection, deltas: Mapping[WindowKey, WindowDelta]) -> None:
    """Add each delta to its window. Rows are locked in order of key."""
    if not deltas:
        return
    # In the order of the primary key, so that two batches never wait for each other crosswise.
    rows = sorted(deltas.items(), key=lambda item: item[0][1:])
    await connection.execute(
        """
        INSERT INTO usage.window AS stored (
            organisation_id, project_id, live, subject, meter_id, meter_version, dimensions, hour,
            count, sum, fingerprint_high, fingerprint_low
        )
        SELECT * FROM unnest(
            %s::text[], %s::text[], %s::boolean[], %s::text[], %s::text[], %s::integer[], %s::text[],
            %s::timestamptz[], %s::bigint[], %s::numeric[], %s::bigint[], %s::bigint[]
        )
        ON CONFLICT (project_id, live, subject, meter_id, meter_version, dimensions, hour) DO UPDATE SET
            count = stored.count + excluded.count,
            sum = stored.sum + excluded.sum,
            fingerprint_high = stored.fingerprint_high + excluded.fingerprint_high,
            fingerprint_low = stored.fingerprint_low + excluded.fingerprint_low,
            revision = stored.revision + 1,
            updated_at = now()
        """,
        (
            *([key[column] for key, _ in rows] for column in range(8)),
            [delta.count for _, delta in rows],
            [delta.sum for _, delta in rows],
            [delta.fingerprint.high for _, delta in rows],
            [delta.fingerprint.low for _, delta in rows],
        ),
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
                organisation_id, project_id, subject, meter_id, meter_version, hour, key, value, partition, log_offset
            ) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (
                    event.organisation_id,
                    event.project_id,
                    event.subject,
                    meter.id,
                    meter.version,
                    event.hour,
                    UUID(bytes=event.key),
                    quantity,
                    record.partition,
                    record.offset,
                )
                for record, event in late
                for meter, quantity in event.quantities
            ],
        )
