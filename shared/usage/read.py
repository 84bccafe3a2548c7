"""Read usage: sealed windows for an invoice, segments for whoever recomputes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from shared.domain.identity import Fingerprint
from shared.kafka.records import Record
from shared.postgres.pool import Connection
from shared.usage.segment import Disposition, from_letters, unpack


@dataclass(frozen=True, slots=True)
class MeterUsage:
    """Usage of one organisation, one meter version, one month: all projects and subjects together, live only."""

    meter_id: str
    meter_version: int
    count: int
    sum: Decimal
    fingerprint: Fingerprint


async def month_usage(connection: Connection, organisation_id: str, start: datetime, end: datetime) -> list[MeterUsage]:
    """Totals per meter from the windows whose hour starts in [start, end), in order of meter."""
    rows = await (
        await connection.execute(
            """
            SELECT meter_id, meter_version, sum(count)::bigint, sum(sum),
                   sum(fingerprint_high)::bigint, sum(fingerprint_low)::bigint
            FROM usage.window
            WHERE organisation_id = %s AND live AND hour >= %s AND hour < %s
            GROUP BY meter_id, meter_version ORDER BY meter_id, meter_version
            """,
            (organisation_id, start, end),
        )
    ).fetchall()
    return [MeterUsage(row[0], row[1], row[2], row[3], Fingerprint(row[4], row[5])) for row in rows]


@dataclass(frozen=True, slots=True)
class StoredSegment:
    topic: str
    partition: int
    dispositions: tuple[Disposition, ...]
    records: list[Record]

    def __iter__(self) -> Iterator[tuple[Record, Disposition]]:
        return iter(zip(self.records, self.dispositions, strict=True))


async def segments(
    connection: Connection, topic: str, start: datetime | None = None, end: datetime | None = None
) -> AsyncIterator[StoredSegment]:
    """Segments that may hold events of [start, end), in log order per partition; all of them without bounds.

    Streams through a server-side cursor, so the caller's connection must be in a transaction.
    Raises Fatal for a segment whose bytes are damaged.
    """
    async with connection.cursor(name="segments") as cursor:
        cursor.itersize = 16
        await cursor.execute(
            """
            SELECT topic, partition, dispositions, payload, sha256 FROM usage.segment
            WHERE topic = %(topic)s
              AND (%(start)s::timestamptz IS NULL OR latest_time >= %(start)s)
              AND (%(end)s::timestamptz IS NULL OR earliest_time < %(end)s)
            ORDER BY partition, first_offset
            """,
            {"topic": topic, "start": start, "end": end},
        )
        async for row in cursor:
            yield StoredSegment(row[0], row[1], from_letters(row[2]), unpack(row[0], row[1], row[3], row[4]))
