"""What a batch writes besides identities: windows, segments, conflicts, adjustments. SQL only, no decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from shared.kafka.records import Record
from shared.postgres.binary import BinaryArray, BoolArray, Int4Array, Int8Array, TextArray, TimestamptzArray
from shared.postgres.pool import Connection
from shared.usage.event import UsageEvent
from shared.usage.fold import WindowKey
from shared.usage.parts import Parts
from shared.usage.segment import Disposition, Segment, letters


async def merge_windows(connection: Connection, deltas: Mapping[WindowKey, Parts]) -> None:
    """Add each delta to its window. Rows are locked in order of key."""
    # In the order of the primary key, so that two batches never wait for each other crosswise.
    rows = sorted(deltas.items(), key=_primary_key)
    await _merge_sums(connection, rows)
    # Second, and of rows that are locked already: few meters need it.
    await _merge_extremes(connection, [row for row in rows if _has_extremes(row[1])])
    await _merge_distinct(connection, rows)


Row = tuple[WindowKey, Parts]


def _primary_key(row: Row) -> tuple[object, ...]:
    return row[0][1:]


def _has_extremes(parts: Parts) -> bool:
    return not (parts.minimum is None and parts.maximum is None and parts.latest is None and parts.moment is None)


def _keys(rows: Sequence[Row]) -> tuple[BinaryArray, ...]:
    """The columns of the primary key, with the organisation before them."""
    organisations, projects, lives, subjects, meters, versions, dimensions, hours = zip(
        *(key for key, _ in rows), strict=True
    )
    return (
        *(TextArray(organisations), TextArray(projects), BoolArray(lives), TextArray(subjects)),
        *(TextArray(meters), Int4Array(versions), TextArray(dimensions), TimestamptzArray(hours)),
    )


async def _merge_sums(connection: Connection, rows: Sequence[Row]) -> None:
    if not rows:
        return
    await connection.execute(
        """
        INSERT INTO usage.window AS stored (
            organisation_id, project_id, live, subject, meter_id, meter_version, dimensions, hour,
            count, sum, fingerprint_high, fingerprint_low
        )
        SELECT organisation, project, live, subject, meter, version, dimensions, hour, count, sum::numeric, high, low
        FROM unnest(
            %b::text[], %b::text[], %b::boolean[], %b::text[], %b::text[], %b::integer[], %b::text[],
            %b::timestamptz[], %b::bigint[], %b::text[], %b::bigint[], %b::bigint[]
        ) AS delta (organisation, project, live, subject, meter, version, dimensions, hour, count, sum, high, low)
        ON CONFLICT (project_id, live, subject, meter_id, meter_version, dimensions, hour) DO UPDATE SET
            count = stored.count + excluded.count,
            sum = stored.sum + excluded.sum,
            fingerprint_high = stored.fingerprint_high + excluded.fingerprint_high,
            fingerprint_low = stored.fingerprint_low + excluded.fingerprint_low,
            revision = stored.revision + 1,
            updated_at = now()
        """,
        (
            *_keys(rows),
            Int8Array([parts.count for _, parts in rows]),
            TextArray([str(parts.sum) for _, parts in rows]),
            Int8Array([parts.fingerprint.high for _, parts in rows]),
            Int8Array([parts.fingerprint.low for _, parts in rows]),
        ),
    )


async def _merge_extremes(connection: Connection, rows: Sequence[Row]) -> None:
    """The parts that only some aggregations keep; the windows are there."""
    if not rows:
        return
    await connection.execute(
        """
        UPDATE usage.window AS stored SET
            minimum = least(stored.minimum, delta.minimum::numeric),
            maximum = greatest(stored.maximum, delta.maximum::numeric),
            (latest_time, latest_id, latest_value) = (
                SELECT time, id, value FROM (VALUES
                    (stored.latest_time, stored.latest_id, stored.latest_value),
                    (delta.latest_time::timestamptz, delta.latest_id COLLATE "C", delta.latest_value::numeric)
                ) AS candidate (time, id, value)
                ORDER BY time DESC NULLS LAST, id DESC, value DESC LIMIT 1
            ),
            moment = CASE WHEN delta.moment IS NULL THEN stored.moment
                     ELSE coalesce(stored.moment, 0) + delta.moment::numeric END
        FROM unnest(
            %b::text[], %b::text[], %b::boolean[], %b::text[], %b::text[], %b::integer[], %b::text[],
            %b::timestamptz[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[]
        ) AS delta (
            organisation, project, live, subject, meter, version, dimensions, hour,
            minimum, maximum, latest_time, latest_id, latest_value, moment
        )
        WHERE stored.project_id = delta.project AND stored.live = delta.live AND stored.subject = delta.subject
          AND stored.meter_id = delta.meter AND stored.meter_version = delta.version
          AND stored.dimensions = delta.dimensions AND stored.hour = delta.hour
        """,
        (
            *_keys(rows),
            *(
                TextArray([None if value is None else str(value) for value in column])
                for column in zip(*(_extremes(parts) for _, parts in rows), strict=True)
            ),
        ),
    )


def _extremes(parts: Parts) -> tuple[object, ...]:
    latest = parts.latest or (None, None, None)
    return (parts.minimum, parts.maximum, *latest, parts.moment)


async def _merge_distinct(connection: Connection, rows: Sequence[Row]) -> None:
    """Values that unique_count tells apart; the windows' order, then that of the digests."""
    values = [
        (*key, UUID(bytes=digest), events)
        for key, each in rows
        if each.distinct is not None
        for digest, events in sorted(each.distinct.items())
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
    """One unbilled row per event and meter that takes late readings; billing them is the invoicer's."""
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
                if reading.meter.late != "reject"
            ],
        )
