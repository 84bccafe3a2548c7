"""Cases: what does not match, for a person to look at. One open case per class and object;
opening it again refreshes the evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from psycopg.types.json import Jsonb

from services.payments.match import CaseClass
from shared.postgres.pool import Connection

Evidence = Mapping[str, str | int | None]


async def open_case(
    connection: Connection,
    case_class: CaseClass,
    object_id: str,
    *,
    organisation_id: str | None,
    evidence: Evidence,
    action: str,
) -> None:
    """Open it, or refresh the evidence of the one that is open."""
    await connection.execute(
        """
        INSERT INTO payments.case (class, object_id, organisation_id, evidence, proposed_action)
        VALUES (%s, %s, %s, %s, %s)
        ON CONFLICT (class, object_id) WHERE closed_at IS NULL
        DO UPDATE SET organisation_id = excluded.organisation_id, evidence = excluded.evidence,
            proposed_action = excluded.proposed_action
        """,
        (case_class, object_id, organisation_id, Jsonb(dict(evidence)), action),
    )


async def close_cases(connection: Connection, object_id: str, classes: Sequence[CaseClass]) -> int:
    """What they were about has healed by itself; returns how many were open."""
    cursor = await connection.execute(
        "UPDATE payments.case SET closed_at = now() WHERE object_id = %s AND class = ANY(%s) AND closed_at IS NULL",
        (object_id, list(classes)),
    )
    return cursor.rowcount
