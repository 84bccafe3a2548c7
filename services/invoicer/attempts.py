"""Every attempt to make an invoice is counted (R2.5), in the transaction that decides it.

A command ends before Prometheus could read it, so attempts are rows and the long-running process exports them.
"""

from __future__ import annotations

import asyncio
import contextlib
from enum import StrEnum

from shared.domain.errors import DatabaseAway
from shared.observability import logging, names
from shared.postgres.pool import Connection, Database

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


class Exporter:
    """Brings the counters of this process up to what the tables say; a total over all commands ever run."""

    def __init__(self) -> None:
        self._exported: dict[str, int] = {}

    async def export(self, connection: Connection) -> None:
        attempts = await (
            await connection.execute("SELECT outcome, count(*) FROM billing.attempt GROUP BY outcome")
        ).fetchall()
        for outcome, count in attempts:
            # Never below zero: a database restored to an older moment has fewer rows than were exported.
            names.INVOICE_ATTEMPTS.labels(outcome).inc(max(0, count - self._exported.get(outcome, 0)))
            self._exported[outcome] = count
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
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), EXPORT_EVERY_S)
