"""Cases: what needs a person. One open case per (class, object); opening it again refreshes the evidence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from psycopg.types.json import Jsonb

from shared.audit.append import append
from shared.domain.period import Month
from shared.postgres.pool import Connection

DRIFT = "invoice_drift"
"""The class of a finalized invoice that no longer follows from its usage and prices; closed by a person only."""


@dataclass(frozen=True, slots=True)
class Case:
    """`case_class` is the error's code (`missing_price`), `object_id` what it is about (`acme/2026-10`)."""

    case_class: str
    object_id: str
    organisation_id: str
    proposed_action: str
    evidence: dict[str, Any] = field(default_factory=dict)


def month_object(organisation_id: str, month: Month) -> str:
    """Object id of what stops an organisation's month."""
    return f"{organisation_id}/{month}"


async def open_case(connection: Connection, case: Case, actor: str) -> None:
    """Open it, or refresh the evidence of the one that is open."""
    row = await (
        await connection.execute(
            """
            INSERT INTO billing.case (class, object_id, organisation_id, evidence, proposed_action)
            VALUES (%s, %s, %s, %s, %s)
            ON CONFLICT (class, object_id) WHERE closed_at IS NULL
            DO UPDATE SET evidence = excluded.evidence, proposed_action = excluded.proposed_action
            RETURNING id
            """,
            (case.case_class, case.object_id, case.organisation_id, Jsonb(case.evidence), case.proposed_action),
        )
    ).fetchone()
    assert row is not None
    await append(
        connection,
        actor=actor,
        action="case.opened",
        object_kind="case",
        object_id=str(row[0]),
        organisation_id=case.organisation_id,
        details={"class": case.case_class, "object": case.object_id},
    )


async def close_cases(connection: Connection, object_id: str, actor: str) -> None:
    """What stopped this month is gone: its invoice is finalized. A drift stays open."""
    rows = await (
        await connection.execute(
            """
            UPDATE billing.case SET closed_at = now()
            WHERE object_id = %s AND closed_at IS NULL AND class <> %s
            RETURNING id, class, organisation_id
            """,
            (object_id, DRIFT),
        )
    ).fetchall()
    for id, case_class, organisation_id in rows:
        await append(
            connection,
            actor=actor,
            action="case.closed",
            object_kind="case",
            object_id=str(id),
            organisation_id=organisation_id,
            details={"class": case_class, "object": object_id},
        )
