"""What publishing windows asks of Postgres. SQL only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from services.aggregator.windows.changed import Run
from shared.contracts.messages.window import WindowMessage
from shared.domain.meter import Aggregation
from shared.kafka.records import Partition
from shared.postgres.binary import BinaryArray, BoolArray, Int4Array, TextArray, TimestamptzArray
from shared.postgres.pool import Connection
from shared.usage.fold import WindowKey
from shared.usage.parts import Parts, Period, quantity

_ORDER = 0x6B77696E  # "kwin"


async def one_at_a_time(connection: Connection, partition: int) -> None:
    """Until the end of the transaction nobody else reads and sends windows of this partition of usage.windows.v1.

    So no older state is sent after a newer one: compaction keeps the last record, not the highest revision. Raises
    DatabaseAway (through the pool) when another holds it for longer than a lock may be waited for.
    """
    await connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (_ORDER, partition))


def _columns(keys: Sequence[WindowKey]) -> tuple[BinaryArray, ...]:
    _, projects, lives, subjects, meters, versions, dimensions, hours = zip(*keys, strict=True)
    return (
        *(TextArray(projects), BoolArray(lives), TextArray(subjects), TextArray(meters)),
        *(Int4Array(versions), TextArray(dimensions), TimestamptzArray(hours)),
    )


async def read(connection: Connection, keys: Sequence[WindowKey]) -> list[WindowMessage]:
    """These windows as they stand; those that are not there are left out. By primary key, in one statement."""
    if not keys:
        return []
    cursor = await connection.execute(
        # One statement is one snapshot: a window and its distinct values are of one revision.
        """
        SELECT kept.organisation_id, kept.project_id, kept.live, kept.subject, kept.meter_id, kept.meter_version,
               kept.dimensions, kept.hour, kept.revision, kept.updated_at, meter.aggregation, meter.billable,
               kept.count, kept.sum::text, kept.fingerprint_high, kept.fingerprint_low,
               kept.minimum::text, kept.maximum::text, kept.latest_time, kept.latest_id, kept.latest_value::text,
               kept.moment::text,
               CASE WHEN meter.aggregation = 'unique_count' THEN (
                   SELECT count(*) FROM usage.distinct_value AS told
                   WHERE told.project_id = kept.project_id AND told.live = kept.live AND told.subject = kept.subject
                     AND told.meter_id = kept.meter_id AND told.meter_version = kept.meter_version
                     AND told.dimensions = kept.dimensions AND told.hour = kept.hour AND told.events > 0
               ) END,
               fill.stored_before
        FROM unnest(
            %b::text[], %b::boolean[], %b::text[], %b::text[], %b::integer[], %b::text[], %b::timestamptz[]
        ) AS wanted (project, live, subject, meter, version, dimensions, hour)
        JOIN usage.window AS kept
          ON kept.project_id = wanted.project AND kept.live = wanted.live AND kept.subject = wanted.subject
         AND kept.meter_id = wanted.meter AND kept.meter_version = wanted.version
         AND kept.dimensions = wanted.dimensions AND kept.hour = wanted.hour
        JOIN catalogue.meter ON meter.id = kept.meter_id AND meter.version = kept.meter_version
        LEFT JOIN usage.backfill_meter AS filled
               ON filled.meter_id = kept.meter_id AND filled.meter_version = kept.meter_version
        LEFT JOIN usage.backfill AS fill ON fill.cut_id = filled.cut_id
        """,
        _columns(keys),
    )
    return [_message(_Row(*row)) for row in await cursor.fetchall()]


class _Row(NamedTuple):
    organisation_id: str
    project_id: str
    live: bool
    subject: str
    meter_id: str
    meter_version: int
    dimensions: str
    hour: datetime
    revision: int
    updated_at: datetime
    aggregation: Aggregation
    billable: bool
    events: int
    sum: str
    high: int
    low: int
    minimum: str | None
    maximum: str | None
    latest_time: datetime | None
    latest_id: str | None
    latest_value: str | None
    moment: str | None
    distinct: int | None
    backfilled_before: datetime | None


def _message(row: _Row) -> WindowMessage:
    values = row._asdict()
    count, fingerprint = values.pop("events"), (values.pop("high"), values.pop("low"))
    return WindowMessage(**values, count=count, fingerprint=fingerprint, quantity=_quantity(row))


def _quantity(row: _Row) -> str | None:
    match row.aggregation:
        case "count":
            return str(row.events)
        case "sum":
            return row.sum
        case "min":
            return row.minimum
        case "max":
            return row.maximum
        case "latest":
            return row.latest_value
        case "unique_count":
            return str(row.distinct)
        case "avg":
            average = quantity("avg", Parts(row.events, Decimal(row.sum)), Period(row.hour, row.hour))
            return None if average is None else f"{average:f}"
        case "weighted_sum":
            return None


async def queue(connection: Connection, keys: Sequence[WindowKey]) -> None:
    """In the transaction that changes windows without a batch: they are published even if nobody lives to say so."""
    if not keys:
        return
    await connection.execute(
        """
        INSERT INTO usage.changed_window (
            organisation_id, project_id, live, subject, meter_id, meter_version, dimensions, hour
        )
        SELECT * FROM unnest(
            %b::text[], %b::text[], %b::boolean[], %b::text[], %b::text[], %b::integer[], %b::text[], %b::timestamptz[]
        )
        """,
        (TextArray([key.organisation_id for key in keys]), *_columns(keys)),
    )


async def queued(connection: Connection, most: int) -> dict[int, WindowKey]:
    """By the number of their entry, the oldest first."""
    cursor = await connection.execute(
        """
        SELECT id, organisation_id, project_id, live, subject, meter_id, meter_version, dimensions, hour
        FROM usage.changed_window ORDER BY id LIMIT %s
        """,
        (most,),
    )
    return {id: WindowKey(*key) for id, *key in await cursor.fetchall()}


async def forget(connection: Connection, entries: Sequence[int]) -> None:
    """These entries of the queue are published."""
    await connection.execute("SELECT usage.forget_changed_windows(%s)", (list(entries),))


async def begin(connection: Connection, group: str, topic: str) -> None:
    """Partitions that nobody has published of yet begin where the archive does."""
    await connection.execute(
        """
        INSERT INTO usage.window_cursor (topic, partition, published_offset)
        SELECT topic, partition, coalesce(
            (SELECT min(first_offset) FROM usage.segment
             WHERE segment.topic = applied.topic AND segment.partition = applied.partition),
            next_offset
        )
        FROM messaging.consumer_offset AS applied
        WHERE consumer_group = %s AND topic = %s AND NOT EXISTS (
            SELECT FROM usage.window_cursor
            WHERE window_cursor.topic = applied.topic AND window_cursor.partition = applied.partition
        )
        ON CONFLICT DO NOTHING
        """,
        (group, topic),
    )


async def mark(connection: Connection, runs: Mapping[Partition, Run]) -> None:
    """Windows of these offsets are published. A run that does not begin where the cursor stands moves nothing."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            UPDATE usage.window_cursor SET published_offset = %(end)s, updated_at = now()
            WHERE topic = %(topic)s AND partition = %(partition)s
              AND published_offset >= %(start)s AND published_offset < %(end)s
            """,
            [
                {"topic": partition.topic, "partition": partition.partition, "start": run.start, "end": run.end}
                for partition, run in sorted(runs.items())
            ],
        )


async def step_back(connection: Connection, partition: Partition, offset: int) -> None:
    """What is applied from here on may change windows again: a rewind of the group's offsets."""
    await connection.execute(
        """
        UPDATE usage.window_cursor SET published_offset = least(published_offset, %s), updated_at = now()
        WHERE topic = %s AND partition = %s
        """,
        (offset, *partition),
    )


class Standing(NamedTuple):
    """Windows of a partition are published below `published`; batches have been applied below `applied`.

    `waiting_s`: for how long the oldest segment between has been waiting.
    """

    published: int
    applied: int
    waiting_s: float


async def standing(connection: Connection, group: str, topic: str) -> dict[Partition, Standing]:
    cursor = await connection.execute(
        """
        SELECT topic, partition, published_offset, next_offset, coalesce((
            SELECT extract(epoch FROM clock_timestamp() - stored_at) FROM usage.segment
            WHERE segment.topic = applied.topic AND segment.partition = applied.partition
              AND first_offset >= published_offset ORDER BY first_offset LIMIT 1
        ), 0)::float8
        FROM messaging.consumer_offset AS applied JOIN usage.window_cursor USING (topic, partition)
        WHERE consumer_group = %s AND topic = %s
        """,
        (group, topic),
    )
    return {Partition(row[0], row[1]): Standing(*row[2:]) for row in await cursor.fetchall()}


class Archived(NamedTuple):
    """One segment, to see whose windows it has changed."""

    first_offset: int
    last_offset: int
    dispositions: bytes
    sha256: bytes
    payload: bytes
    stored_at: datetime


async def next_segment(connection: Connection, partition: Partition, start: int, end: int) -> Archived | None:
    """The first segment that begins in [start, end)."""
    row = await (
        await connection.execute(
            """
            SELECT first_offset, last_offset, dispositions, sha256, payload, stored_at FROM usage.segment
            WHERE topic = %s AND partition = %s AND first_offset >= %s AND first_offset < %s
            ORDER BY first_offset LIMIT 1
            """,
            (*partition, start, end),
        )
    ).fetchone()
    return None if row is None else Archived(*row)
