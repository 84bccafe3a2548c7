"""What became of one event: every stage it passed, with times, and why it stopped where it did."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from shared.contracts.headers import SPOOL, first
from shared.contracts.messages.event import decode_content, decode_event
from shared.contracts.topics import USAGE_EVENTS, Names
from shared.domain.errors import Rejected
from shared.domain.identity import identity_key
from shared.kafka.records import Record
from shared.postgres.pool import Connection
from shared.usage.backfill import read_views
from shared.usage.event import UsageEvent
from shared.usage.metering import read_metering
from shared.usage.segment import Disposition, from_letters, unpack

# One probe of each generation's index: asked for the key alone, every generation might be read.
STANDING = """
    SELECT standing.partition, standing.log_offset FROM usage.generation CROSS JOIN LATERAL (
        SELECT partition, log_offset FROM usage.identity
        WHERE identity.generation = generation.id AND identity.key = %s LIMIT 1
    ) AS standing
"""
MAX_VALUE_BYTES = 256 * 1024  # no event is larger
MOST = 50  # conflicts and dead letters that are shown


async def trace_event(
    connection: Connection, names: Names, project: str, live: bool, source: str, id: str, *, for_operator: bool = False
) -> dict[str, Any]:
    """A document: `stages` in order (empty: no aggregator has seen it), `corrections`, `conflicts`, `dead_letters`.

    A correction has a stage that names its target and says what it has done to it.

    The organisation's invoices, and dead letters of which nobody can tell whose they are, are an operator's to see.
    """
    key = identity_key(project, live, source, id)
    found: dict[str, Any] = {
        "source": source,
        "id": id,
        "project": project,
        "mode": "live" if live else "test",
        "identity": key.hex(),
        "stages": [],
        "corrections": await _corrections(connection, key),
        "conflicts": await _conflicts(connection, key),
        "dead_letters": await _dead_letters(connection, project, source, id, for_operator),
    }
    place = await _row(connection, STANDING, UUID(bytes=key))
    if place is not None:
        stages = await _stages(connection, names.topic(USAGE_EVENTS), *place)
        found["stages"] = [stage for stage in stages if for_operator or stage["stage"] != "invoiced"]
    return found


async def _stages(connection: Connection, topic: str, partition: int, offset: int) -> list[dict[str, Any]]:
    stored = await _row(
        connection,
        """
        SELECT payload, sha256, dispositions, stored_at FROM usage.segment
        WHERE topic = %s AND partition = %s AND first_offset <= %s AND last_offset >= %s
        """,
        *(topic, partition, offset, offset),
    )
    if stored is None:
        return [{"stage": "applied", "partition": partition, "offset": offset, "note": "its segment is not here"}]
    payload, sha256, dispositions, applied_at = stored
    record, disposition = next(
        (record, disposition)
        for record, disposition in zip(
            unpack(topic, partition, payload, sha256), from_letters(dispositions), strict=True
        )
        if record.offset == offset
    )
    stamped = decode_event(record.value or b"")
    accepted = {
        "stage": "accepted",
        "at": stamped.ingestedat,
        "process": stamped.ingestid,
        "key": stamped.keyid or None,
    }
    spool = first(record.headers, SPOOL)
    stages: list[dict[str, Any]] = [accepted]
    if spool is not None:
        stages.append({"stage": "spooled", "spool": spool.decode()})
    stages.append(
        {"stage": "logged", "at_ms": record.timestamp_ms, "topic": topic, "partition": partition, "offset": offset}
    )
    stages.append({"stage": "applied", "at": applied_at, "disposition": disposition.name.lower()})
    return stages + await _counted(connection, record, disposition, applied_at)


async def _counted(
    connection: Connection, record: Record, disposition: Disposition, applied_at: datetime
) -> list[dict[str, Any]]:
    """The windows it is in, and the invoice of its month."""
    views = await read_views(connection, await read_metering(connection))
    place = (record.topic, record.partition, record.offset, applied_at)
    view = views.at(*place)
    try:
        content = decode_content(record.value or b"")
        match disposition:
            case Disposition.UNMETERED:
                event = view.uncounted(content)
            case Disposition.ADJUSTMENT:
                event = view.late(content)
            case _:
                event = view.counted(content)
    except (Rejected, msgspec.MsgspecError) as error:
        code = error.code if isinstance(error, Rejected) else "malformed"
        return [{"stage": "stopped", "code": code, "reason": str(error)}]
    if disposition is Disposition.CORRECTION:
        return [{"stage": "corrects"} | one for one in await _correction(connection, event.key)]
    waiting = views.waiting(content.type, *place)
    if disposition is Disposition.UNMETERED and not event.readings:
        reason = f"no meter counts it yet; {', '.join(waiting)} will (back-fill)" if waiting else "no meter counts it"
        return [{"stage": "stopped", "reason": reason}]
    counted = {
        "stage": "counted",
        "event_time": event.time,
        "subject": event.subject,
        "meters": [
            {
                "meter": reading.meter.id,
                "version": reading.meter.version,
                "hour": event.hour,
                "dimensions": json.loads(reading.dimensions) if reading.dimensions else {},
                "value": f"{reading.value:f}",
            }
            for reading in event.readings
        ],
    }
    if waiting:
        counted["backfill_will_count"] = waiting
    return [counted, *await _billed(connection, event, disposition)]


async def _billed(connection: Connection, event: UsageEvent, disposition: Disposition) -> list[dict[str, Any]]:
    if disposition is Disposition.ADJUSTMENT:
        row = await _row(
            connection,
            "SELECT max(billed_by) FROM usage.adjustment WHERE key = %s AND taken_back_by IS NULL",
            UUID(bytes=event.key),
        )
        return [{"stage": "late", "month": str(event.month), "billed_by": row and row[0]}]
    if disposition is not Disposition.COUNTED:
        return []
    of_month = (event.organisation_id, event.month.year, event.month.month)
    seal = await _row(
        connection,
        "SELECT sealed_at FROM usage.seal WHERE organisation_id = %s AND year = %s AND month = %s",
        *of_month,
    )
    stages: list[dict[str, Any]] = []
    if seal is not None:
        stages.append({"stage": "sealed", "at": seal[0], "month": str(event.month)})
    cursor = await connection.execute(
        """
        SELECT number, state FROM billing.invoice
        WHERE organisation_id = %s AND year = %s AND month = %s ORDER BY created_at
        """,
        of_month,
    )
    return stages + [
        {"stage": "invoiced", "number": number, "state": state} for number, state in await cursor.fetchall()
    ]


async def _corrections(connection: Connection, key: bytes) -> list[dict[str, Any]]:
    """Of this event, in the order in which they were applied; those that were not come last."""
    cursor = await connection.execute(
        """
        SELECT kind, source, event_id, subject, reason, state, applied_as, code, explanation, arrived_at, decided_at
        FROM usage.correction WHERE target_key = %s ORDER BY sequence NULLS LAST, arrived_at LIMIT %s
        """,
        (UUID(bytes=key), MOST),
    )
    names = ("kind", "source", "id", "subject", "reason", "state", "applied_as", "code", "why", "arrived_at", "at")
    return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]


async def _correction(connection: Connection, key: bytes) -> list[dict[str, Any]]:
    """What this correction is about, and what became of it."""
    cursor = await connection.execute(
        """
        SELECT kind, target_source, target_id, target_hour, reason, state, applied_as, code, explanation, decided_at
        FROM usage.correction WHERE key = %s
        """,
        (UUID(bytes=key),),
    )
    names = ("kind", "target_source", "target_id", "hour", "reason", "state", "applied_as", "code", "why", "at")
    return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]


async def _conflicts(connection: Connection, key: bytes) -> list[dict[str, Any]]:
    cursor = await connection.execute(
        "SELECT partition, log_offset, seen_at FROM usage.conflict WHERE key = %s ORDER BY seen_at LIMIT %s",
        (UUID(bytes=key), MOST),
    )
    return [{"partition": one, "offset": other, "seen_at": at} for one, other, at in await cursor.fetchall()]


async def _dead_letters(
    connection: Connection, project: str, source: str, id: str, of_nobody_too: bool
) -> list[dict[str, Any]]:
    """What is no JSON cannot be known by its id."""
    cursor = await connection.execute(
        """
        SELECT id, topic, code, error, failed_at, state, value FROM messaging.dead_letter
        WHERE (project_id = %s OR %s AND project_id IS NULL) AND octet_length(value) <= %s
          AND position(convert_to(%s, 'UTF8') IN value) > 0
        ORDER BY failed_at DESC LIMIT %s
        """,
        (project, of_nobody_too, MAX_VALUE_BYTES, json.dumps(id, ensure_ascii=False)[1:-1], MOST),
    )
    found = []
    for letter, topic, code, error, failed_at, state, value in await cursor.fetchall():
        if _names(value, source, id):
            found.append(
                {"id": letter, "topic": topic, "code": code, "reason": error, "failed_at": failed_at, "state": state}
            )
    return found


def _names(value: bytes, source: str, id: str) -> bool:
    try:
        said = json.loads(value)
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and (said.get("source"), said.get("id")) == (source, id)


async def _row(connection: Connection, query: str, *parameters: Any) -> Sequence[Any] | None:
    return await (await connection.execute(query.encode(), parameters)).fetchone()
