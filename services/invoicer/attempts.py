"""Every attempt to make an invoice is counted (R2.5), in the transaction that decides it.

A command ends before Prometheus could read it, so attempts are rows and the long-running process exports them.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum

from shared.domain.errors import DatabaseAway
from shared.observability import logging, names
from shared.postgres.pool import Connection, Database
from shared.runtime.pause import pause

EXPORT_EVERY_S = 5.0

log = logging.get(__name__)


class Attempt(StrEnum):
    """What became of it. An alert watches the last three: two of a kind, contradictions, what needs a person."""

    CREATED = "created"
    REPLAYED = "replayed"
    LOST_RACE = "lost_race"
    REFUSED = "refused"
    PARKED = "parked"


async def record(connection: Connection, key: str, attempt: Attempt, actor: str) -> None:
    """`key` is the idempotency key of the invoice attempted."""
    await connection.execute(
        "INSERT INTO billing.attempt (key, outcome, actor) VALUES (%s, %s, %s)", (key, attempt.value, actor)
    )


# Rows of transactions from the last horizon on to the present one, which every transaction that still runs is at or
# above: each row is counted once, in whatever order they commit, and none is read twice.
NEWER = """
    SELECT horizon::text, outcome, count(attempt.id)
    FROM pg_snapshot_xmin(pg_current_snapshot()) AS horizon
    LEFT JOIN billing.attempt ON created_by_xid >= %s::xid8 AND created_by_xid < horizon
    GROUP BY horizon, outcome
"""


class Exporter:
    """Brings the counters of this process up to what the tables say; a total over all commands ever run."""

    def __init__(self) -> None:
        self._counted_below = "0"

    async def export(self, connection: Connection) -> None:
        for horizon, outcome, count in await (await connection.execute(NEWER, (self._counted_below,))).fetchall():
            self._counted_below = horizon
            if outcome is not None:
                names.INVOICE_ATTEMPTS.labels(outcome).inc(count)
        cases = await (
            await connection.execute("SELECT class, count(*) FROM billing.case WHERE closed_at IS NULL GROUP BY class")
        ).fetchall()
        names.INVOICE_CASES.clear()
        for case_class, count in cases:
            names.INVOICE_CASES.labels(case_class).set(count)

    async def run(self, database: Database, stop: asyncio.Event) -> None:
        """Export every few seconds until `stop`; a database that is away is waited for."""
        while not stop.is_set():
            try:
                async with database.connection() as connection:
                    await self.export(connection)
            except DatabaseAway as away:
                log.warning("attempts.waiting", error=str(away))
            await pause(stop, EXPORT_EVERY_S)
