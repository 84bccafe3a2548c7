"""Append one audit entry."""

from __future__ import annotations

import getpass
import os
from typing import Any

from psycopg.types.json import Jsonb

from shared.postgres.pool import Connection


def operator() -> str:
    """Who types a command: `KHATA_OPERATOR`, else the account of the operating system."""
    return os.environ.get("KHATA_OPERATOR") or f"os:{getpass.getuser()}"


async def append(
    connection: Connection,
    *,
    actor: str,
    action: str,
    object_kind: str,
    object_id: str,
    organisation_id: str | None = None,
    details: dict[str, Any] | None = None,
) -> None:
    """`action` is a dotted verb (`invoice.finalized`); `details` hold no secrets."""
    await connection.execute(
        """
        INSERT INTO audit.entry (organisation_id, actor, action, object_kind, object_id, details)
        VALUES (%s, %s, %s, %s, %s, %s)
        """,
        (organisation_id, actor, action, object_kind, object_id, Jsonb(details or {})),
    )
