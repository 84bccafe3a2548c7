"""The outbox: what must leave Postgres for a topic, in the transaction that makes it true.

`add` inside the business transaction; `relay` (one leader per topic) publishes rows in order of id:

    1  read rows below the snapshot's xmin (a lower id may still be uncommitted above it)
    2  produce them in order and await every ack
    3  mark them                        crash before 3: they are published again; consumers dedupe
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from shared.observability import names
from shared.postgres.leadership import try_lead
from shared.postgres.pool import Connection, Database
from shared.runtime.failpoints import failpoint


class OutboxMessage(msgspec.Struct, frozen=True, gc=False):
    """`topic` is the real (prefixed) name. A record that leaves through the outbox without a key gets an empty one.

    `partition`: where the key does not say it; what leaves through the outbox goes by its key.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None


Publish = Callable[[Sequence[OutboxMessage]], Awaitable[None]]
"""Produce all in order and return when all are acked; raises BrokerAway."""


async def add(connection: Connection, messages: Sequence[OutboxMessage]) -> None:
    """Append to the outbox inside the caller's transaction."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO messaging.outbox (topic, key, value, headers) VALUES (%s, %s, %s, %s)",
            [
                # a list, because the order of headers matters and a name may come twice
                (message.topic, message.key or b"", message.value, Jsonb([(k, v.hex()) for k, v in message.headers]))
                for message in messages
            ],
        )


async def relay_once(database: Database, topic: str, publish: Publish, limit: int = 500) -> int:
    """Publish up to `limit` pending rows of one topic; returns how many. Raises BrokerAway, DatabaseAway.

    The caller holds the leadership of the topic (`leadership`), so that order is kept.
    """
    async with database.connection() as connection:
        rows = await (
            await connection.execute(
                """
                SELECT id, key, value, headers FROM messaging.outbox
                WHERE topic = %s AND published_at IS NULL
                  AND created_by_xid < pg_snapshot_xmin(pg_current_snapshot())
                ORDER BY id LIMIT %s
                """,
                (topic, limit),
            )
        ).fetchall()
    names.OUTBOX_PENDING.labels(topic).set(len(rows))
    if not rows:
        return 0
    await publish([_message(topic, row) for row in rows])
    await failpoint("outbox.relay.before_mark")
    async with database.transaction() as connection:
        await connection.execute(
            "UPDATE messaging.outbox SET published_at = now() WHERE id = ANY(%s)", ([row[0] for row in rows],)
        )
    names.OUTBOX_PUBLISHED.labels(topic).inc(len(rows))
    return len(rows)


def _message(topic: str, row: TupleRow) -> OutboxMessage:
    _, key, value, headers = row
    pairs = headers.items() if isinstance(headers, dict) else headers  # {} is the column's default
    return OutboxMessage(topic, key, value, tuple((name, bytes.fromhex(text)) for name, text in pairs))


async def purge(connection: Connection, topic: str, most: int) -> int:
    """Forget up to `most` rows of the topic that were published more than 7 days ago; returns how many went."""
    row = await (await connection.execute("SELECT messaging.purge_outbox(%s, %s)", (topic, most))).fetchone()
    assert row is not None
    return int(row[0])


async def leadership(connection: Connection, topic: str) -> bool:
    """Try to become the one relay of `topic`; held as long as this (direct) connection lives."""
    return await try_lead(connection, f"outbox:{topic}")
