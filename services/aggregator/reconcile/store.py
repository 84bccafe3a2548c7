"""What reconciliation reads from Postgres, and the window that a repair writes. SQL only, no decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from services.aggregator.corrections.decide import Signed
from services.aggregator.reconcile.archive import SegmentRow
from services.aggregator.reconcile.identities import Block, Sums
from services.aggregator.reconcile.windows import LateKey, LateValue
from services.aggregator.windows import store as published
from shared.domain.identity import Fingerprint
from shared.postgres.pool import Connection
from shared.usage.fold import WindowKey
from shared.usage.parts import Parts

SEGMENTS_AT_ONCE = 4
WINDOWS_AT_ONCE = 5_000
# A reader holds no lock that anybody waits for; between two fetches it computes, and is idle for Postgres.
IDLE_MS = 300_000

_SEGMENT = (
    "topic, partition, first_offset, last_offset, record_count, dispositions, sha256, payload, earliest_time, stored_at"
)


async def snapshot(connection: Connection) -> None:
    """Make the caller's transaction one look: windows, archive and offsets change together, so they agree in it."""
    await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    await connection.execute("SELECT set_config('idle_in_transaction_session_timeout', %s, true)", (f"{IDLE_MS}ms",))


async def next_offsets(connection: Connection, group: str, topic: str) -> dict[int, int]:
    """Where the group stands: everything below was applied."""
    rows = await (
        await connection.execute(
            "SELECT partition, next_offset FROM messaging.consumer_offset WHERE consumer_group = %s AND topic = %s",
            (group, topic),
        )
    ).fetchall()
    return dict(rows)


async def archived_between(
    connection: Connection, topic: str, start: datetime, end: datetime
) -> dict[int, tuple[int, int]]:
    """[first, after the last) offset of the segments that were stored in [start, end), by partition."""
    rows = await (
        await connection.execute(
            """
            SELECT partition, min(first_offset), max(last_offset) + 1 FROM usage.segment
            WHERE topic = %s AND stored_at >= %s AND stored_at < %s GROUP BY partition
            """,
            (topic, start, end),
        )
    ).fetchall()
    return {partition: (first, after) for partition, first, after in rows}


async def archive_totals(connection: Connection, topic: str) -> dict[int, tuple[int, int, int]]:
    """(first offset, after the last, records) of the whole archive, by partition."""
    rows = await (
        await connection.execute(
            """
            SELECT partition, min(first_offset), max(last_offset) + 1, sum(record_count)::bigint
            FROM usage.segment WHERE topic = %s GROUP BY partition
            """,
            (topic,),
        )
    ).fetchall()
    return {partition: (first, after, records) for partition, first, after, records in rows}


async def segments_by_offset(
    connection: Connection, topic: str, partition: int, start: int, end: int
) -> AsyncIterator[SegmentRow]:
    """Segments that hold offsets of [start, end), in order of their first. The caller must be in a transaction."""
    query = f"""
        SELECT {_SEGMENT} FROM usage.segment
        WHERE topic = %(topic)s AND partition = %(partition)s AND first_offset < %(end)s AND last_offset >= %(start)s
          AND first_offset >= coalesce((
              SELECT max(first_offset) FROM usage.segment
              WHERE topic = %(topic)s AND partition = %(partition)s AND first_offset <= %(start)s
          ), 0)
        ORDER BY first_offset
        """  # noqa: S608 (a constant list of columns)
    async for row in _stream(
        connection, query, {"topic": topic, "partition": partition, "start": start, "end": end}, SEGMENTS_AT_ONCE
    ):
        yield SegmentRow(*row)


async def segments_by_time(
    connection: Connection, topic: str, start: datetime, end: datetime, *, since: dict[int, int] | None = None
) -> AsyncIterator[SegmentRow]:
    """Segments that may hold events of [start, end); `since`: only those that begin at these offsets or later."""
    query = f"""
        SELECT {_SEGMENT} FROM usage.segment
        WHERE topic = %(topic)s AND latest_time >= %(start)s AND earliest_time < %(end)s
          AND (%(partitions)s::integer[] IS NULL OR first_offset >= coalesce((
              SELECT since FROM unnest(%(partitions)s::integer[], %(offsets)s::bigint[]) AS begun (number, since)
              WHERE number = partition
          ), 0))
        ORDER BY partition, first_offset
        """  # noqa: S608 (a constant list of columns)
    parameters = {
        "topic": topic,
        "start": start,
        "end": end,
        "partitions": None if since is None else list(since),
        "offsets": None if since is None else list(since.values()),
    }
    async for row in _stream(connection, query, parameters, SEGMENTS_AT_ONCE):
        yield SegmentRow(*row)


async def _stream(
    connection: Connection, query: str, parameters: dict[str, Any], at_once: int
) -> AsyncIterator[tuple[Any, ...]]:
    async with connection.cursor(name="reconcile", binary=True) as cursor:
        cursor.itersize = at_once
        await cursor.execute(query.encode(), parameters)
        async for row in cursor:
            yield row


async def windows_by_hour(
    connection: Connection, organisations: Sequence[str], start: datetime, end: datetime
) -> dict[datetime, int]:
    """How many windows each hour has."""
    rows = await (
        await connection.execute(
            """
            SELECT hour, count(*) FROM usage.window
            WHERE organisation_id = ANY(%s) AND hour >= %s AND hour < %s GROUP BY hour ORDER BY hour
            """,
            (list(organisations), start, end),
        )
    ).fetchall()
    return dict(rows)


async def windows(
    connection: Connection, organisations: Sequence[str], start: datetime, end: datetime
) -> AsyncIterator[tuple[WindowKey, Parts]]:
    """Windows of [start, end) with their distinct values; values without a window come last, each as one."""
    distinct = await _distinct_values(connection, organisations, start, end)
    query = """
        SELECT organisation_id, project_id, live, subject, meter_id, meter_version, dimensions, hour,
               count, sum, fingerprint_high, fingerprint_low, minimum, maximum,
               latest_time, latest_id, latest_value, moment
        FROM usage.window WHERE organisation_id = ANY(%(organisations)s) AND hour >= %(start)s AND hour < %(end)s
        """
    parameters = {"organisations": list(organisations), "start": start, "end": end}
    async for row in _stream(connection, query, parameters, WINDOWS_AT_ONCE):
        key = WindowKey(*row[:8])
        yield key, parts_of(row[8:], distinct.pop(key, None))
    for key, digests in distinct.items():
        yield key, Parts(distinct=digests)


def parts_of(row: Sequence[Any], distinct: dict[bytes, int] | None) -> Parts:
    """From count, sum, both halves of the fingerprint, minimum, maximum, the three of latest, moment."""
    latest = None if row[6] is None else (row[6], row[7], row[8])
    return Parts(row[0], row[1], Fingerprint(row[2], row[3]), row[4], row[5], latest, row[9], distinct)


async def _distinct_values(
    connection: Connection, organisations: Sequence[str], start: datetime, end: datetime
) -> dict[WindowKey, dict[bytes, int]]:
    found: dict[WindowKey, dict[bytes, int]] = {}
    query = """
        SELECT organisation_id, project_id, live, subject, meter_id, meter_version, dimensions, hour, digest, events
        FROM usage.distinct_value
        WHERE organisation_id = ANY(%(organisations)s) AND hour >= %(start)s AND hour < %(end)s AND events <> 0
        """
    parameters = {"organisations": list(organisations), "start": start, "end": end}
    async for row in _stream(connection, query, parameters, WINDOWS_AT_ONCE):
        found.setdefault(WindowKey(*row[:8]), {})[row[8].bytes] = row[9]
    return found


async def adjustments(
    connection: Connection, organisations: Sequence[str], start: datetime, end: datetime
) -> dict[LateKey, LateValue]:
    """Late events of [start, end), by key, meter and version."""
    rows = await (
        await connection.execute(
            """
            SELECT key, meter_id, meter_version, organisation_id, project_id, subject, dimensions, hour, value, time,
                   event_id, digest, partition, log_offset
            FROM usage.adjustment WHERE organisation_id = ANY(%s) AND hour >= %s AND hour < %s AND kind = 'late'
            """,
            (list(organisations), start, end),
        )
    ).fetchall()
    return {
        LateKey(row[0].bytes, row[1], row[2]): (*row[3:11], row[11].bytes if row[11] else None, *row[12:])
        for row in rows
    }


async def standing_adjustments(
    connection: Connection, organisations: Sequence[str], start: datetime, end: datetime
) -> dict[bytes, Counter[Signed]]:
    """Signed sums of the adjustments of [start, end) that stand, by event."""
    cursor = await connection.execute(
        """
        SELECT key, meter_id, meter_version, dimensions, value, digest, sign FROM usage.adjustment
        WHERE organisation_id = ANY(%s) AND hour >= %s AND hour < %s AND taken_back_by IS NULL
        """,
        (list(organisations), start, end),
    )
    found: dict[bytes, Counter[Signed]] = {}
    for key, meter, version, dimensions, value, digest, sign in await cursor.fetchall():
        said = Signed(meter, version, dimensions, value, digest.bytes if digest else b"")
        found.setdefault(key.bytes, Counter())[said] += sign
    return found


async def dirty_windows(
    connection: Connection, organisations: Sequence[str], start: datetime, end: datetime
) -> set[WindowKey]:
    """Windows whose extremes are to be looked at again."""
    cursor = await connection.execute(
        """
        SELECT organisation_id, project_id, live, subject, meter_id, meter_version, dimensions, hour
        FROM usage.dirty_window
        WHERE organisation_id = ANY(%s) AND hour >= %s AND hour < %s AND cleaned < marks
        """,
        (list(organisations), start, end),
    )
    return {WindowKey(*row) for row in await cursor.fetchall()}


async def corrections_between(connection: Connection, partition: int, start: int, end: int) -> int:
    """How many corrections are kept of [start, end)."""
    row = await (
        await connection.execute(
            "SELECT count(*) FROM usage.correction WHERE partition = %s AND log_offset >= %s AND log_offset < %s",
            (partition, start, end),
        )
    ).fetchone()
    assert row is not None
    return int(row[0])


async def generations_since(connection: Connection, start: datetime) -> list[int] | None:
    """Generations that took identities at `start` or later; None when one of them is detached already."""
    rows = await (
        await connection.execute(
            """
            SELECT id, EXISTS (
                SELECT FROM pg_inherits
                WHERE inhparent = 'usage.identity'::regclass AND inhrelid = to_regclass('usage.identity_' || id)
            )
            FROM usage.generation WHERE closed_at IS NULL OR closed_at >= %s ORDER BY id
            """,
            (start,),
        )
    ).fetchall()
    return [id for id, _ in rows] if rows and all(attached for _, attached in rows) else None


async def identity_sums(
    connection: Connection, generations: Sequence[int], blocks: Sequence[Block]
) -> list[tuple[int, Sums]]:
    """Sums of the identities that point into each block (by its place in `blocks`), in one pass over generations.

    There is no index by offset: a generation is as large as one pass may be, and only those of the period are read.
    """
    rows = await (
        await connection.execute(
            """
            WITH block AS MATERIALIZED (
                SELECT place - 1 AS place, number, first, last FROM unnest(%s::integer[], %s::bigint[], %s::bigint[])
                    WITH ORDINALITY AS block (number, first, last, place)
            ), bound AS MATERIALIZED (
                SELECT number, min(first) AS first, max(last) AS last,
                       array_agg(first ORDER BY first) AS firsts, array_agg(place ORDER BY first) AS places
                FROM block GROUP BY number
            )
            SELECT places[width_bucket(log_offset, firsts)], count(*),
                   sum(('x' || left(key::text, 8))::bit(32)::bigint)::numeric,
                   sum(('x' || substr(key::text, 10, 4) || substr(key::text, 15, 4))::bit(32)::bigint)::numeric,
                   sum(log_offset)::numeric
            FROM usage.identity JOIN bound ON bound.number = identity.partition
            WHERE generation = ANY(%s) AND log_offset BETWEEN bound.first AND bound.last
            GROUP BY 1
            """,
            (
                [block.partition for block in blocks],
                [block.first_offset for block in blocks],
                [block.last_offset for block in blocks],
                list(generations),
            ),
        )
    ).fetchall()
    return [(place, Sums(events, int(high), int(low), int(offsets))) for place, events, high, low, offsets in rows]


async def identities_of(connection: Connection, generations: Sequence[int], block: Block) -> dict[int, bytes]:
    """Key by offset, of the identities that point into the block."""
    rows = await (
        await connection.execute(
            """
            SELECT log_offset, key FROM usage.identity
            WHERE generation = ANY(%s) AND partition = %s AND log_offset BETWEEN %s AND %s
            """,
            (list(generations), block.partition, block.first_offset, block.last_offset),
        )
    ).fetchall()
    return {offset: key.bytes for offset, key in rows}


async def places_of(connection: Connection, keys: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
    """(partition, offset) at which each of these identities was counted."""
    rows = await (
        await connection.execute(
            # The generation leads the primary key: without it the whole table is read.
            """
            SELECT key, partition, log_offset FROM usage.identity
            WHERE generation = ANY(ARRAY(SELECT id FROM usage.generation)) AND key = ANY(%s)
            """,
            ([UUID(bytes=key) for key in keys],),
        )
    ).fetchall()
    return {key.bytes: (partition, offset) for key, partition, offset in rows}


async def conflicts_between(connection: Connection, partition: int, start: int, end: int) -> int:
    """How many conflicts are kept of [start, end)."""
    row = await (
        await connection.execute(
            "SELECT count(*) FROM usage.conflict WHERE partition = %s AND log_offset >= %s AND log_offset < %s",
            (partition, start, end),
        )
    ).fetchone()
    assert row is not None
    return int(row[0])


async def dead_letters_between(
    connection: Connection, group: str, topic: str, partition: int, start: int, end: int
) -> int:
    """How many records of [start, end) that the group refused have a dead letter kept."""
    row = await (
        await connection.execute(
            """
            SELECT count(DISTINCT log_offset) FROM messaging.dead_letter
            WHERE topic = %s AND partition = %s AND log_offset >= %s AND log_offset < %s
              AND origin_known AND consumer_group = %s
            """,
            (topic, partition, start, end, group),
        )
    ).fetchone()
    assert row is not None
    return int(row[0])


async def first_meters(connection: Connection) -> dict[str, datetime]:
    """When the first meter of each event type was made; those that were back-filled aside."""
    rows = await (
        await connection.execute(
            """
            SELECT event_type, min(created_at) FROM catalogue.meter
            WHERE NOT EXISTS (
                SELECT FROM usage.backfill_meter WHERE (meter_id, meter_version) = (meter.id, meter.version)
            ) GROUP BY event_type
            """
        )
    ).fetchall()
    return dict(rows)


async def window(connection: Connection, key: WindowKey) -> Parts | None:
    """One window with its distinct values."""
    row = await (
        await connection.execute(
            """
            SELECT count, sum, fingerprint_high, fingerprint_low, minimum, maximum,
                   latest_time, latest_id, latest_value, moment
            FROM usage.window
            WHERE (project_id, live, subject, meter_id, meter_version, dimensions, hour)
                = (%s, %s, %s, %s, %s, %s, %s) AND organisation_id = %s
            """,
            (*key[1:], key[0]),
        )
    ).fetchone()
    digests = await (
        await connection.execute(
            """
            SELECT digest, events FROM usage.distinct_value
            WHERE (project_id, live, subject, meter_id, meter_version, dimensions, hour)
                = (%s, %s, %s, %s, %s, %s, %s) AND events <> 0
            """,
            key[1:],
        )
    ).fetchall()
    distinct = {digest.bytes: events for digest, events in digests} or None
    if row is None:
        return Parts(distinct=distinct) if distinct else None
    return parts_of(row, distinct)


async def set_window(connection: Connection, key: WindowKey, parts: Parts) -> None:
    """Make the window say exactly this, and enter it to be published.

    Its values that no event has any more keep a row with 0 events.
    """
    latest = parts.latest or (None, None, None)
    await connection.execute(
        """
        INSERT INTO usage.window AS stored (
            organisation_id, project_id, live, subject, meter_id, meter_version, dimensions, hour,
            count, sum, fingerprint_high, fingerprint_low,
            minimum, maximum, latest_time, latest_id, latest_value, moment
        ) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        ON CONFLICT (project_id, live, subject, meter_id, meter_version, dimensions, hour) DO UPDATE SET
            organisation_id = excluded.organisation_id,
            count = excluded.count, sum = excluded.sum,
            fingerprint_high = excluded.fingerprint_high, fingerprint_low = excluded.fingerprint_low,
            minimum = excluded.minimum, maximum = excluded.maximum,
            latest_time = excluded.latest_time, latest_id = excluded.latest_id,
            latest_value = excluded.latest_value, moment = excluded.moment,
            revision = stored.revision + 1, updated_at = now()
        """,
        (
            *key,
            *(parts.count, parts.sum, *parts.fingerprint, parts.minimum, parts.maximum, *latest, parts.moment),
        ),
    )
    await connection.execute(
        """
        UPDATE usage.distinct_value SET events = 0
        WHERE (project_id, live, subject, meter_id, meter_version, dimensions, hour) = (%s, %s, %s, %s, %s, %s, %s)
        """,
        key[1:],
    )
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            INSERT INTO usage.distinct_value (
                organisation_id, project_id, live, subject, meter_id, meter_version, dimensions, hour, digest, events
            ) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (project_id, live, subject, meter_id, meter_version, dimensions, hour, digest)
                DO UPDATE SET events = excluded.events
            """,
            [(*key, UUID(bytes=digest), events) for digest, events in sorted((parts.distinct or {}).items())],
        )
    await published.queue(connection, [key])
