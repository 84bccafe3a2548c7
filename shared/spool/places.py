"""What the spool knows of each partition's offsets, so that a re-created topic never lets it forget.

Offsets of one partition only grow, and so does a group's position. One that comes back smaller means that
the topic was made anew, was cut, or that the group was rewound: acks from before prove nothing until a
person says so (`release`), and their rows are kept.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

from shared.observability import logging
from shared.spool.encoding import Place

Held = Mapping[tuple[str, int], int]
"""Per (topic, partition): rows acked at or before this instant (us) are kept whatever the position."""

log = logging.get(__name__)


def acked(connection: sqlite3.Connection, places: Iterable[Place], now_us: int) -> None:
    """Inside the transaction that marks: new highest offsets."""
    for topic, partition, offset in places:
        row = connection.execute(
            "SELECT acked_offset FROM place WHERE topic = ? AND partition = ?", (topic, partition)
        ).fetchone()
        if row is not None and offset < row[0]:
            _hold(connection, topic, partition, now_us - 1, "an ack came with a smaller offset than before")
        connection.execute(
            """
            INSERT INTO place (topic, partition, acked_offset) VALUES (?, ?, ?)
            ON CONFLICT (topic, partition) DO UPDATE SET acked_offset = excluded.acked_offset
            """,
            (topic, partition, offset),
        )


def observed(connection: sqlite3.Connection, positions: Mapping[tuple[str, int], int], now_us: int) -> None:
    """Inside a transaction: new positions of the consuming group, of partitions that were acked to."""
    known = connection.execute("SELECT topic, partition, consumed_position FROM place").fetchall()
    for topic, partition, before in known:
        position = positions.get((topic, partition))
        if position is None:
            continue
        if before is not None and position < before:
            _hold(connection, topic, partition, now_us, f"the group's position fell from {before} to {position}")
        connection.execute(
            "UPDATE place SET consumed_position = ? WHERE topic = ? AND partition = ?", (position, topic, partition)
        )


def held(connection: sqlite3.Connection) -> Held:
    rows = connection.execute("SELECT topic, partition, held_since_us FROM place WHERE held_since_us IS NOT NULL")
    return {(topic, partition): since for topic, partition, since in rows.fetchall()}


def release(connection: sqlite3.Connection, topic: str, partition: int) -> None:
    connection.execute("UPDATE place SET held_since_us = NULL WHERE topic = ? AND partition = ?", (topic, partition))


def passed(places: Iterable[Place], acked_at_us: int, positions: Mapping[tuple[str, int], int], held: Held) -> bool:
    """True when the group has consumed every place: its position (the next offset) is beyond each.

    A partition without a known position, or one that is held since the ack, has passed nothing.
    """
    for topic, partition, offset in places:
        position = positions.get((topic, partition))
        if position is None or position <= offset:
            return False
        since = held.get((topic, partition))
        if since is not None and acked_at_us <= since:
            return False
    return True


def _hold(connection: sqlite3.Connection, topic: str, partition: int, since_us: int, why: str) -> None:
    log.error("spool.partition_held", topic=topic, partition=partition, why=why)
    connection.execute(
        "UPDATE place SET held_since_us = ? WHERE topic = ? AND partition = ?", (since_us, topic, partition)
    )
