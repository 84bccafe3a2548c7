"""Dirty windows in Postgres. SQL only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from services.aggregator.reconcile.store import parts_of
from shared.postgres.pool import Connection
from shared.usage.fold import WindowKey
from shared.usage.parts import Parts

_KEY = "organisation_id, project_id, live, subject, meter_id, meter_version, dimensions, hour"
WANTED = """unnest(
        %s::text[], %s::boolean[], %s::text[], %s::text[], %s::integer[], %s::text[], %s::timestamptz[]
    ) WITH ORDINALITY AS wanted (project, live, subject, meter, version, dimensions, hour, place)"""
SAME = """stored.project_id = wanted.project AND stored.live = wanted.live AND stored.subject = wanted.subject
    AND stored.meter_id = wanted.meter AND stored.meter_version = wanted.version
    AND stored.dimensions = wanted.dimensions AND stored.hour = wanted.hour"""


def key_columns(windows: Collection[WindowKey]) -> list[list[object]]:
    """The primary key's columns, rows in its order."""
    rows = sorted(window[1:] for window in windows)
    return [[row[column] for row in rows] for column in range(7)]


async def oldest(connection: Connection, most: int, skip: int) -> dict[WindowKey, int]:
    """Dirty windows of one hour and their marks: of the oldest, after the first `skip` windows."""
    cursor = await connection.execute(
        f"SELECT {_KEY}, marks FROM usage.dirty_window WHERE cleaned < marks "  # noqa: S608 - constants
        f"ORDER BY {_ORDER} OFFSET %s LIMIT %s".encode(),
        (skip, most),
    )
    found = {WindowKey(*key): marks for *key, marks in await cursor.fetchall()}
    hour = next(iter(found)).hour if found else None
    return {key: marks for key, marks in found.items() if key.hour == hour}


_ORDER = "hour, project_id, live, subject, meter_id, meter_version, dimensions"


async def lock(connection: Connection, windows: Collection[WindowKey]) -> dict[WindowKey, Parts]:
    """These windows until the end of the transaction, without their distinct values.

    In order of key as batches do, which is that of code points, not of the database's collation.
    """
    cursor = await connection.execute(
        f"""
        SELECT {", ".join("stored." + column for column in _KEY.split(", "))},
               count, sum, fingerprint_high, fingerprint_low, minimum, maximum,
               latest_time, latest_id, latest_value, moment
        FROM usage.window AS stored JOIN {WANTED} ON {SAME}
        ORDER BY wanted.place FOR UPDATE OF stored
        """.encode(),  # noqa: S608 - constants
        key_columns(windows),
    )
    return {WindowKey(*row[:8]): parts_of(row[8:], None) for row in await cursor.fetchall()}


async def marks(connection: Connection, windows: Collection[WindowKey]) -> dict[WindowKey, int]:
    """Of those that are dirty."""
    cursor = await connection.execute(
        f"""
        SELECT {", ".join("stored." + column for column in _KEY.split(", "))}, marks
        FROM usage.dirty_window AS stored JOIN {WANTED} ON {SAME} WHERE cleaned < marks
        """.encode(),  # noqa: S608 - constants
        key_columns(windows),
    )
    return {WindowKey(*key): mark for *key, mark in await cursor.fetchall()}


async def set_extremes(connection: Connection, windows: Mapping[WindowKey, Parts]) -> None:
    """Windows that are locked take over minimum, maximum and latest."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            UPDATE usage.window SET
                minimum = %s, maximum = %s, latest_time = %s, latest_id = %s, latest_value = %s,
                revision = revision + 1, updated_at = now()
            WHERE (project_id, live, subject, meter_id, meter_version, dimensions, hour) = (%s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (parts.minimum, parts.maximum, *(parts.latest or (None, None, None)), *key[1:])
                for key, parts in sorted(windows.items(), key=lambda pair: pair[0])
            ],
        )


async def clean(connection: Connection, marked: Mapping[WindowKey, int]) -> None:
    """What was marked up to there has been looked at."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            UPDATE usage.dirty_window SET cleaned = %s
            WHERE (project_id, live, subject, meter_id, meter_version, dimensions, hour) = (%s, %s, %s, %s, %s, %s, %s)
            """,
            [(marks, *key[1:]) for key, marks in sorted(marked.items())],
        )


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many wait, and for how many seconds the oldest."""

    number: int
    oldest_s: float


async def dirty(connection: Connection) -> Backlog:
    return await _backlog(
        connection,
        """
        SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(since)), 0)::float8
        FROM usage.dirty_window WHERE cleaned < marks
        """,
    )


async def parked(connection: Connection) -> Backlog:
    return await _backlog(
        connection,
        """
        SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(arrived_at)), 0)::float8
        FROM usage.correction WHERE state = 'parked'
        """,
    )


async def _backlog(connection: Connection, query: str) -> Backlog:
    rows: Sequence[tuple[int, float]] = await (await connection.execute(query.encode())).fetchall()
    return Backlog(*rows[0])
