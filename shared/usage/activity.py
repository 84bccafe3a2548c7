"""What keys did, as stored by the aggregator (usage.key_activity): summed up for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from psycopg.rows import class_row

from shared.postgres.pool import Connection

Step = Literal["minute", "hour", "day"]


@dataclass(frozen=True, slots=True)
class Activity:
    """One key in one stretch of time (UTC), all processes together.

    `addresses` are distinct ones; `addresses_overflow`: some minute had more than are kept, so there were more.
    """

    since: datetime
    key_id: str
    calls: int
    accepted: int
    rejected: int
    failed: dict[str, int]
    addresses: int
    addresses_overflow: bool
    last_used: datetime


async def read_activity(
    connection: Connection, key_ids: Sequence[str], since: datetime, step: Step = "hour"
) -> list[Activity]:
    """Oldest first; stretches without activity are not there. Read by the primary key."""
    async with connection.cursor(row_factory=class_row(Activity)) as cursor:
        await cursor.execute(
            """
            WITH seen AS (
                SELECT date_trunc(%(step)s, minute, 'UTC') AS since, *
                FROM usage.key_activity WHERE key_id = ANY(%(keys)s) AND minute >= %(since)s
            ), failures AS (
                SELECT since, key_id, jsonb_object_agg(code, calls) AS failed FROM (
                    SELECT since, key_id, code, sum(amount::bigint) AS calls
                    FROM seen, jsonb_each_text(failed) AS each (code, amount) GROUP BY since, key_id, code
                ) AS by_code GROUP BY since, key_id
            ), places AS (
                SELECT since, key_id, count(DISTINCT address) AS addresses
                FROM seen, unnest(addresses) AS address GROUP BY since, key_id
            )
            SELECT since, key_id, sum(calls)::bigint AS calls, sum(accepted)::bigint AS accepted,
                sum(rejected)::bigint AS rejected, coalesce(failures.failed, '{}') AS failed,
                greatest(coalesce(places.addresses, 0), max(address_count)) AS addresses,
                bool_or(addresses_overflow) AS addresses_overflow, max(minute) AS last_used
            FROM seen
            LEFT JOIN failures USING (since, key_id)
            LEFT JOIN places USING (since, key_id)
            GROUP BY since, key_id, failures.failed, places.addresses
            ORDER BY since, key_id
            """,
            {"step": step, "keys": list(key_ids), "since": since},
        )
        return await cursor.fetchall()
