"""Usage as somebody asks for it: one project and meter, windows of any length, by subject and dimensions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, localcontext
from typing import Any
from zoneinfo import ZoneInfo

from psycopg import sql

from shared.domain.errors import Rejected
from shared.domain.meter import ZERO, Aggregation, Meter, MeterIndex
from shared.domain.period import Window, local_hour_start, split
from shared.postgres.pool import Connection
from shared.usage.parts import SUMS, Parts, Period, quantity
from shared.usage.stored_parts import COLUMNS, parts_of

SUBJECT = "subject"
MOST_ROWS = 100_000
MOST_CELLS = 500_000  # windows times groups, looked at one by one


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """`group_by` names `subject` or dimensions; `filters` a dimension and its values (as they stand in the data).

    `zone` says where windows begin, `kept_in` in which zone usage is kept (the organisation's).
    """

    project_id: str
    live: bool
    meter_id: str
    start: datetime
    end: datetime
    window: Window
    zone: ZoneInfo
    kept_in: ZoneInfo
    subject: str | None = None
    group_by: tuple[str, ...] = ()
    filters: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def windows(self) -> list[tuple[datetime, datetime]]:
        """Raises Rejected (`zone_does_not_fit`) where windows begin inside hours that usage is kept by, Usage."""
        found = split(self.start, self.end, self.window, self.zone)
        for instant in (*(start for start, _ in found), self.end):
            if local_hour_start(instant, self.kept_in) != instant:
                text = f"usage is kept by hours of {self.kept_in.key}; windows of {self.zone.key} begin inside them"
                raise Rejected("zone_does_not_fit", text)
        return found


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One window, meter version and group; `group` in the order of `group_by`, None for a value that is missing."""

    start: datetime
    end: datetime
    meter_version: int
    group: tuple[Any, ...]
    events: int
    quantity: Decimal | None


async def query_usage(connection: Connection, meters: Sequence[Meter], query: UsageQuery) -> list[UsageRow]:
    """Rows with events (or, for a weighted_sum, a level), in order of window, version and group.

    `meters`: every version of the meter. Raises Rejected (`unknown_dimension`, `zone_does_not_fit`,
    `too_many_rows`), Usage.
    """
    windows = query.windows()
    _check(meters, query)
    parts = await _parts(connection, query, windows)
    unique = await _unique(connection, query, windows) if _any(meters, "unique_count") else {}
    levels = await _levels(connection, query) if _any(meters, "weighted_sum") else {}
    rows: list[UsageRow] = []
    groups = sorted({group for _, _, group in parts} | set(levels), key=_order)
    versions = MeterIndex.versions(meters)
    if len(groups) * len(windows) > MOST_CELLS:
        raise Rejected("too_many_rows", f"{len(groups):,} groups in {len(windows):,} windows: ask for less of either")
    with localcontext(SUMS):
        for group in groups:
            level = levels.get(group, ZERO)
            for index, (start, end) in enumerate(windows):
                for meter in versions:
                    found = parts.get((index, meter.version, group))
                    period = _of_version(meter, start, end)
                    if found is not None or (level and period and meter.aggregation == "weighted_sum"):
                        here = found or Parts()
                        distinct = unique.get((index, meter.version, group), 0)
                        at = period or Period(start, end)
                        total = quantity(meter.aggregation, here, at, level=level, unique=distinct)
                        rows.append(UsageRow(start, end, meter.version, group, here.count, total))
                        level += here.sum
    rows.sort(key=lambda row: row.start)
    return rows


def _order(group: tuple[Any, ...]) -> tuple[tuple[bool, str], ...]:
    return tuple((value is not None, str(value)) for value in group)


def _of_version(meter: Meter, start: datetime, end: datetime) -> Period | None:
    """The part of the window that this version counts; its averages are over the whole."""
    begins, ends = max(start, meter.effective_from or start), min(end, meter.effective_until or end)
    return Period(begins, ends, end - start) if begins < ends else None


def _check(meters: Sequence[Meter], query: UsageQuery) -> None:
    known = {name for meter in meters for name, _ in meter.group_by}
    for name in (*query.group_by, *query.filters):
        if name not in known and not (name == SUBJECT and name in query.group_by):
            has = ", ".join(sorted({*known, SUBJECT}))
            raise Rejected("unknown_dimension", f"meter {query.meter_id} has no dimension {name!r}; it has {has}")


def _any(meters: Sequence[Meter], aggregation: Aggregation) -> bool:
    return any(meter.aggregation == aggregation for meter in meters)


def _group(query: UsageQuery) -> sql.Composable:
    """A text array with one element for each name of `group_by`: the JSON of the value."""
    columns = [
        sql.SQL("to_json(kept.subject)::text")
        if name == SUBJECT
        else sql.SQL("(nullif(kept.dimensions, '')::json -> {})::text").format(sql.Literal(name))
        for name in query.group_by
    ]
    return sql.SQL("ARRAY[{}]::text[]").format(sql.SQL(", ").join(columns))


def _where(query: UsageQuery, *, keeps_live: bool = True) -> tuple[sql.Composable, dict[str, Any]]:
    """`keeps_live`: the table tells live from test; adjustments are live."""
    conditions: list[sql.Composable] = [
        sql.SQL("kept.project_id = %(project)s AND kept.meter_id = %(meter)s"),
        sql.SQL("kept.live = %(live)s") if keeps_live else sql.SQL("%(live)s"),
    ]
    values: dict[str, Any] = {"project": query.project_id, "live": query.live, "meter": query.meter_id}
    if query.subject is not None:
        conditions.append(sql.SQL("kept.subject = %(subject)s"))
        values["subject"] = query.subject
    for number, (name, wanted) in enumerate(sorted(query.filters.items())):
        place = sql.Placeholder(f"filter{number}")
        conditions.append(
            sql.SQL("nullif(kept.dimensions, '')::json ->> {} = ANY({})").format(sql.Literal(name), place)
        )
        values[f"filter{number}"] = list(wanted)
    return sql.SQL(" AND ").join(conditions), values


_Key = tuple[int, int, tuple[Any, ...]]


async def _parts(
    connection: Connection, query: UsageQuery, windows: Sequence[tuple[datetime, datetime]]
) -> dict[_Key, Parts]:
    where, values = _where(query)
    cursor = await connection.execute(
        sql.SQL(
            """
            SELECT asked.number, kept.meter_version, {group} AS said, {columns}
            FROM unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[])
                     WITH ORDINALITY AS asked (begins, ends, number)
            JOIN usage.window AS kept ON kept.hour >= asked.begins AND kept.hour < asked.ends
            WHERE {where} AND kept.count > 0
            GROUP BY asked.number, kept.meter_version, said
            LIMIT {most}
            """
        ).format(group=_group(query), columns=sql.SQL(COLUMNS), where=where, most=sql.Literal(MOST_ROWS + 1)),
        values | {"starts": [start for start, _ in windows], "ends": [end for _, end in windows]},
    )
    rows = await cursor.fetchall()
    if len(rows) > MOST_ROWS:
        raise Rejected("too_many_rows", f"more than {MOST_ROWS:,} rows: ask for a shorter period or fewer groups")
    return {(number - 1, version, _values(said)): parts_of(row) for number, version, said, *row in rows}


async def _unique(
    connection: Connection, query: UsageQuery, windows: Sequence[tuple[datetime, datetime]]
) -> dict[_Key, int]:
    where, values = _where(query)
    cursor = await connection.execute(
        sql.SQL(
            """
            SELECT asked.number, kept.meter_version, {group} AS said, count(DISTINCT kept.digest)
            FROM unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[])
                     WITH ORDINALITY AS asked (begins, ends, number)
            JOIN usage.distinct_value AS kept ON kept.hour >= asked.begins AND kept.hour < asked.ends
            WHERE {where} AND kept.events > 0
            GROUP BY asked.number, kept.meter_version, said
            """
        ).format(group=_group(query), where=where),
        values | {"starts": [start for start, _ in windows], "ends": [end for _, end in windows]},
    )
    return {(row[0] - 1, row[1], _values(row[2])): row[3] for row in await cursor.fetchall()}


_OF_WINDOWS = sql.SQL("sum(kept.sum)")
_OF_ADJUSTMENTS = sql.SQL("coalesce(sum(kept.sign * kept.value) FILTER (WHERE kept.taken_back_by IS NULL), 0)")


async def _levels(connection: Connection, query: UsageQuery) -> dict[tuple[Any, ...], Decimal]:
    """What each group's deltas add up to before the period; late ones with them."""
    levels: dict[tuple[Any, ...], Decimal] = {}
    for table, summed in (("window", _OF_WINDOWS), ("adjustment", _OF_ADJUSTMENTS)):
        where, values = _where(query, keeps_live=table == "window")
        cursor = await connection.execute(
            sql.SQL(
                "SELECT {group} AS said, {summed} FROM {table} AS kept "
                "WHERE {where} AND kept.hour < %(start)s GROUP BY said LIMIT {most}"
            ).format(
                group=_group(query),
                summed=summed,
                table=sql.Identifier("usage", table),
                where=where,
                most=sql.Literal(MOST_ROWS + 1),
            ),
            values | {"start": query.start},
        )
        if cursor.rowcount > MOST_ROWS:
            raise Rejected("too_many_rows", f"more than {MOST_ROWS:,} groups: ask for fewer")
        with localcontext(SUMS):
            for said, total in await cursor.fetchall():
                group = _values(said)
                levels[group] = levels.get(group, ZERO) + total
    return {group: level for group, level in levels.items() if level}


def _values(said: Sequence[str | None]) -> tuple[Any, ...]:
    """JSON texts as values: texts, numbers as they are written, booleans, None."""
    return tuple(None if text is None else _value(text) for text in said)


def _value(text: str) -> Any:
    return json.loads(text, parse_int=str, parse_float=str)
