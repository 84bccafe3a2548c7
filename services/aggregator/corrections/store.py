"""Corrections in Postgres: parked, applied, refused; dirty windows; the adjustments they make. SQL only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from services.aggregator.corrections.decide import Adjustment, Applied, Decision, Outcome, Pending, Signed, Target
from services.aggregator.corrections.dirty_store import SAME, WANTED, key_columns
from shared.domain.correction import Correction
from shared.postgres.binary import UuidArray
from shared.postgres.pool import Connection
from shared.usage.fold import WindowKey

_LOCK = 0x6B636F72  # "kcor", of the two-key advisory locks
LOCKS = 128  # a power of two
MOST_AWAITED = 1_000  # beyond, every event of a batch is looked up: 1 us each

Parking = tuple[str, str]
"""Code and explanation of a parked one."""


async def awaited(connection: Connection) -> set[bytes] | None:
    """Events that parked corrections wait for; None when those are too many to look at one by one.

    Asked by every batch; answered from an index that is nearly always empty.
    """
    rows = await (
        await connection.execute(
            """
            SELECT target_key FROM usage.correction WHERE state = 'parked' AND code = 'target_unknown' LIMIT %b::integer
            """,
            (MOST_AWAITED + 1,),
            binary=True,
        )
    ).fetchall()
    return None if len(rows) > MOST_AWAITED else {row[0].bytes for row in rows}


async def lock_projects(connection: Connection, projects: Collection[str]) -> None:
    """One at a time corrects events of a project, until the end of the transaction: what a correction changes depends
    on those before it, which nobody else may be adding to. After offset rows and before identities.

    Projects share a few locks, for the server has room for some thousands only.
    """
    await connection.execute(
        """
        SELECT pg_advisory_xact_lock(%s, number) FROM (
            SELECT DISTINCT hashtext(project) & %s AS number FROM unnest(%s::text[]) AS project ORDER BY 1
        ) AS ordered
        """,
        (_LOCK, LOCKS - 1, list(projects)),
    )


async def parked(connection: Connection, target_keys: Sequence[bytes]) -> list[Pending]:
    """Those that wait for one of these events, in log order; not those that another subject keeps from it."""
    rows = await (
        await connection.execute(
            f"SELECT {_PENDING} FROM usage.correction "  # noqa: S608 - a constant list of columns
            "WHERE state = 'parked' AND code = 'target_unknown' AND target_key = ANY(%b::uuid[]) "
            "ORDER BY partition, log_offset".encode(),
            (UuidArray(target_keys),),
        )
    ).fetchall()
    return [_pending(row) for row in rows]


async def parked_after(connection: Connection, key: bytes, most: int) -> list[Pending]:
    """Those that wait for an event, in order of their own key, from the one after `key` on."""
    rows = await (
        await connection.execute(
            f"SELECT {_PENDING} FROM usage.correction "  # noqa: S608 - a constant list of columns
            "WHERE state = 'parked' AND code = 'target_unknown' AND key > %s ORDER BY key LIMIT %s".encode(),
            (UUID(bytes=key), most),
        )
    ).fetchall()
    return [_pending(row) for row in rows]


_PENDING = (
    "key, target_key, target_source, target_id, reason, data, organisation_id, project_id, live, subject, event_id, "
    "partition, log_offset"
)


def _pending(row: Sequence[Any]) -> Pending:
    key, target_key, source, id, reason, data, organisation, project, live, subject, event_id, partition, offset = row
    correction = Correction(target_key.bytes, source, id, reason, data)
    return Pending(
        key.bytes, correction, organisation, project, live, subject, event_id, partition, offset, stored=True
    )


async def known(connection: Connection, keys: Sequence[bytes]) -> set[bytes]:
    """Which of these corrections have a row: their identity was given up, or lost, and they came again."""
    rows = await (
        await connection.execute("SELECT key FROM usage.correction WHERE key = ANY(%b::uuid[])", (UuidArray(keys),))
    ).fetchall()
    return {row[0].bytes for row in rows}


async def applied(connection: Connection, target_keys: Sequence[bytes]) -> dict[bytes, list[Applied]]:
    """What has been applied to each, in order."""
    rows = await (
        await connection.execute(
            """
            SELECT target_key, data, applied_as FROM usage.correction
            WHERE state = 'applied' AND target_key = ANY(%b::uuid[]) ORDER BY sequence
            """,
            (UuidArray(target_keys),),
        )
    ).fetchall()
    found: dict[bytes, list[Applied]] = {}
    for key, data, applied_as in rows:
        found.setdefault(key.bytes, []).append(Applied(data, applied_as))
    return found


async def standing_adjustments(connection: Connection, target_keys: Sequence[bytes]) -> dict[bytes, list[Adjustment]]:
    """Adjustments of each event that stand, locked: whether one is billed does not change until the batch is done."""
    rows = await (
        await connection.execute(
            """
            SELECT key, id, meter_id, meter_version, dimensions, value, digest, sign, billed_by IS NOT NULL
            FROM usage.adjustment WHERE key = ANY(%b::uuid[]) AND taken_back_by IS NULL ORDER BY id FOR UPDATE
            """,
            (UuidArray(target_keys),),
        )
    ).fetchall()
    found: dict[bytes, list[Adjustment]] = {}
    for key, id, meter, version, dimensions, value, digest, sign, billed in rows:
        said = Signed(meter, version, dimensions, value, digest.bytes if digest else b"")
        found.setdefault(key.bytes, []).append(Adjustment(id, said, sign, billed))
    return found


async def park(connection: Connection, waiting: Sequence[tuple[Pending, Parking]]) -> None:
    """Those that find no target yet. One that is stored already is told why anew."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            f"{_INSERT} 'parked', NULL, %s, %s, NULL, NULL, NULL, NULL, NULL) {_UPDATE}".encode(),
            [(*_columns(one), *why) for one, why in waiting],
        )


async def store(connection: Connection, decided: Sequence[tuple[Target | None, Outcome]]) -> None:
    """What became of corrections, in order; a target is None when it cannot be read."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            f"{_INSERT} %s, %s, %s, %s, %s, %s, %s, "
            "CASE WHEN %s THEN nextval('usage.correction_sequence') END, clock_timestamp()) "
            f"{_UPDATE}".encode(),
            [
                (
                    *_columns(one.pending),
                    *("applied" if one.applied_as else "refused", one.applied_as, one.code, one.explanation),
                    *((target.partition, target.offset, target.event.hour) if target else (None, None, None)),
                    one.applied_as is not None,
                )
                for target, one in decided
            ],
        )


_INSERT = """
    INSERT INTO usage.correction AS stored (
        key, organisation_id, project_id, live, subject, kind, event_id, target_key, target_source, target_id, reason,
        data, partition, log_offset, source, key_id,
        state, applied_as, code, explanation, target_partition, target_offset, target_hour, sequence, decided_at
    ) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
    """
_UPDATE = """
    ON CONFLICT (key) DO UPDATE SET
        state = excluded.state, applied_as = excluded.applied_as, code = excluded.code,
        explanation = excluded.explanation, target_partition = excluded.target_partition,
        target_offset = excluded.target_offset, target_hour = excluded.target_hour, sequence = excluded.sequence,
        decided_at = excluded.decided_at
    WHERE stored.state = 'parked'
    """


def _columns(one: Pending) -> tuple[object, ...]:
    said = one.correction
    return (
        *(UUID(bytes=one.key), one.organisation_id, one.project_id, one.live, one.subject, said.kind, one.event_id),
        *(UUID(bytes=said.target_key), said.target_source, said.target_id, said.reason, said.data),
        *(one.partition, one.offset, one.source, one.key_id),
    )


async def adjust(connection: Connection, decided: Sequence[tuple[Target, Decision]]) -> None:
    """Take back what is not billed, and write what leads to what stands."""
    made = [
        (target.event, decision, [one.pending for one in decision.outcomes if one.applied_as == "adjustment"][-1])
        for target, decision in decided
        if decision.taken_back or decision.adjustments
    ]
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "UPDATE usage.adjustment SET taken_back_by = %s WHERE id = ANY(%s)",
            [(UUID(bytes=last.key), decision.taken_back) for _, decision, last in made if decision.taken_back],
        )
        await cursor.executemany(
            """
            INSERT INTO usage.adjustment (
                organisation_id, project_id, subject, meter_id, meter_version, dimensions, hour, key, value,
                time, event_id, digest, partition, log_offset, kind, sign, correction_key
            ) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (
                    *(event.organisation_id, event.project_id, event.subject),
                    *(said.meter_id, said.meter_version, said.dimensions, event.hour, UUID(bytes=event.key)),
                    *(said.value, event.time, event.id, UUID(bytes=said.distinct) if said.distinct else None),
                    *(last.partition, last.offset, last.correction.kind, sign, UUID(bytes=last.key)),
                )
                for event, decision, last in made
                for said, sign in decision.adjustments
            ],
        )


async def clear_empty(connection: Connection, windows: Collection[WindowKey]) -> None:
    """A window whose events are all gone has no extremes: it says what a window says that never was."""
    await connection.execute(
        f"""
        UPDATE usage.window AS stored SET
            minimum = NULL, maximum = NULL, latest_time = NULL, latest_id = NULL, latest_value = NULL, moment = NULL
        FROM {WANTED} WHERE {SAME} AND stored.count = 0
        """.encode(),  # noqa: S608 - constants
        key_columns(windows),
    )


async def mark_dirty(connection: Connection, windows: Collection[WindowKey]) -> None:
    """Somebody must look at their events again. Rows are locked in order of key."""
    ordered = sorted(windows, key=_primary_key)
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            INSERT INTO usage.dirty_window AS stored (
                organisation_id, project_id, live, subject, meter_id, meter_version, dimensions, hour
            ) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (project_id, live, subject, meter_id, meter_version, dimensions, hour) DO UPDATE SET
                marks = stored.marks + 1,
                since = CASE WHEN stored.cleaned < stored.marks THEN stored.since ELSE now() END
            """,
            ordered,
        )


def _primary_key(window: WindowKey) -> tuple[object, ...]:
    return window[1:]


def by_target(pending: Sequence[Pending]) -> Mapping[bytes, list[Pending]]:
    """In the order given."""
    found: dict[bytes, list[Pending]] = {}
    for one in pending:
        found.setdefault(one.correction.target_key, []).append(one)
    return found
