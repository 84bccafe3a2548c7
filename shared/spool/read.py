"""What is read from the file on the second connection, while the first one writes."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from shared.postgres.outbox import OutboxMessage
from shared.spool.encoding import Place, unpack, unpack_acks, unpack_places


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """One row: events `first_sequence` and following, in the order in which they were accepted."""

    first_sequence: int
    accepted_at_us: int
    payload_bytes: int
    messages: list[OutboxMessage]


@dataclass(frozen=True, slots=True)
class SetAside:
    """An event that Kafka refuses for good; it stays unsent until it is sent or a person decides."""

    sequence: int
    code: str
    error: str
    message: OutboxMessage


@dataclass(frozen=True, slots=True)
class AckedRow:
    """A row as the purge sees it."""

    first_sequence: int
    acked_at_us: int
    places: list[Place]


def batches(connection: sqlite3.Connection, from_sequence: int, limit_events: int) -> list[StoredBatch]:
    """Rows from a sequence number on, in order: at least one if there is any, about `limit_events` in all.

    Raises SpoolBroken for a row whose bytes are not those that were written.
    """
    found: list[StoredBatch] = []
    count = 0
    cursor = connection.execute(
        """
        SELECT first_sequence, accepted_at_us, payload_bytes, digest, payload
        FROM batch WHERE first_sequence >= ? ORDER BY first_sequence
        """,
        (from_sequence,),
    )
    with contextlib.closing(cursor):
        for first, accepted_at_us, stored, digest, payload in cursor:
            messages = unpack(payload, digest, f"spool row {first}")
            found.append(StoredBatch(first, accepted_at_us, stored, messages))
            count += len(messages)
            if count >= limit_events:
                break
    return found


def set_aside(connection: sqlite3.Connection) -> list[SetAside]:
    """Every event that is set aside, with the message itself."""
    rows = connection.execute(
        """
        SELECT sequence, first_sequence, code, error, digest, payload
        FROM aside JOIN batch USING (first_sequence) ORDER BY sequence
        """
    ).fetchall()
    return [
        SetAside(sequence, code, error, unpack(payload, digest, f"spool row {first}")[sequence - first])
        for sequence, first, code, error, digest, payload in rows
    ]


def places(connection: sqlite3.Connection, from_sequence: int, limit_rows: int) -> list[tuple[int, list[Place | None]]]:
    """Where Kafka has each event: (first sequence, place of each, None while set aside), row by row."""
    rows = connection.execute(
        "SELECT first_sequence, places, acks FROM ack WHERE first_sequence >= ? ORDER BY first_sequence LIMIT ?",
        (from_sequence, limit_rows),
    ).fetchall()
    return [(first, unpack_acks(packed, acks)) for first, packed, acks in rows]


def acked_rows(
    connection: sqlite3.Connection, acked_before_us: int, from_sequence: int, limit_rows: int
) -> Sequence[AckedRow]:
    """Rows that are old enough to be purged, as far as the ack's age goes."""
    rows = connection.execute(
        """
        SELECT first_sequence, acked_at_us, places FROM ack
        WHERE acked_at_us <= ? AND first_sequence >= ? ORDER BY first_sequence LIMIT ?
        """,
        (acked_before_us, from_sequence, limit_rows),
    ).fetchall()
    return [AckedRow(first, acked_at_us, unpack_places(packed)) for first, acked_at_us, packed in rows]
