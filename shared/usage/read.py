"""Read usage: sealed windows for an invoice, segments for whoever recomputes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from shared.domain.meter import ZERO, Meter, MeterIndex
from shared.kafka.records import Record
from shared.postgres.pool import Connection
from shared.usage.parts import Parts, Period, quantity
from shared.usage.segment import Disposition, from_letters, unpack
from shared.usage.stored_parts import COLUMNS, parts_of


@dataclass(frozen=True, slots=True)
class MeterUsage:
    """Usage of one organisation and one meter version in a period: all projects and subjects together, live only.

    `unique` where the meter counts distinct values; `level` is what all deltas before `period` add up to, for
    weighted_sum.
    """

    meter: Meter
    period: Period
    parts: Parts
    unique: int | None = None
    level: Decimal = ZERO

    @property
    def quantity(self) -> Decimal:
        """There was usage, so there is one."""
        found = quantity(self.meter.aggregation, self.parts, self.period, level=self.level, unique=self.unique)
        assert found is not None, "no event, yet usage"
        return found


async def month_usage(
    connection: Connection,
    organisation_id: str,
    start: datetime,
    end: datetime,
    meters: Sequence[Meter],
    *,
    of: timedelta | None = None,
    late_before: datetime | None = None,
) -> list[MeterUsage]:
    """Usage of each meter version from the windows whose hour starts in [start, end), in order of meter.

    A window whose events were all taken back is as if it had never been.
    Without events only a weighted_sum has usage: the level that it carries. `of`: see `Period`; `late_before`: see
    `level_before`, default `start`.
    """
    late_before = late_before or start
    parts = await _parts(connection, organisation_id, start, end)
    unique = await _unique(connection, organisation_id, start, end)
    found = []
    for meter in sorted(MeterIndex.versions(meters), key=lambda meter: (meter.id, meter.version)):
        period = Period(
            max(start, meter.effective_from or start), min(end, meter.effective_until or end), of or end - start
        )
        if period.start >= period.end:
            continue
        level = ZERO
        if meter.aggregation == "weighted_sum":
            level = await level_before(connection, organisation_id, meter.id, period.start, late_before=late_before)
        at = (meter.id, meter.version)
        if at in parts or level:
            found.append(MeterUsage(meter, period, parts.get(at, Parts()), unique.get(at), level))
    return found


async def level_before(
    connection: Connection, organisation_id: str, meter_id: str, instant: datetime, *, late_before: datetime
) -> Decimal:
    """What the deltas of a weighted_sum meter add up to before this hour.

    Those that came late, or were corrected after the seal, are in it where they belong before `late_before`, the start
    of the period that is billed: the late ones of the period itself are billed by a document of their own.
    """
    row = await (
        await connection.execute(
            """
            SELECT
                (SELECT coalesce(sum(sum), 0) FROM usage.window
                 WHERE organisation_id = %(organisation)s AND live AND meter_id = %(meter)s AND hour < %(instant)s)
              + (SELECT coalesce(sum(sign * value), 0) FROM usage.adjustment
                 WHERE organisation_id = %(organisation)s AND meter_id = %(meter)s AND hour < %(late)s
                   AND taken_back_by IS NULL)
            """,
            {"organisation": organisation_id, "meter": meter_id, "instant": instant, "late": late_before},
        )
    ).fetchone()
    assert row is not None
    return Decimal(row[0])


async def _parts(
    connection: Connection, organisation_id: str, start: datetime, end: datetime
) -> dict[tuple[str, int], Parts]:
    cursor = await connection.execute(
        f"""
        SELECT meter_id, meter_version, {COLUMNS}
        FROM usage.window AS kept
        WHERE organisation_id = %s AND live AND hour >= %s AND hour < %s AND count > 0
        GROUP BY meter_id, meter_version
        """.encode(),  # noqa: S608 - columns of ours
        (organisation_id, start, end),
    )
    return {(meter_id, version): parts_of(row) for meter_id, version, *row in await cursor.fetchall()}


async def _unique(
    connection: Connection, organisation_id: str, start: datetime, end: datetime
) -> dict[tuple[str, int], int]:
    rows = await (
        await connection.execute(
            """
            SELECT meter_id, meter_version, count(DISTINCT digest) FROM usage.distinct_value
            WHERE organisation_id = %s AND live AND hour >= %s AND hour < %s AND events > 0
            GROUP BY meter_id, meter_version
            """,
            (organisation_id, start, end),
        )
    ).fetchall()
    return {(meter, version): count for meter, version, count in rows}


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
