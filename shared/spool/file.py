"""The file, as its one writing thread sees it: every change is one durable transaction.

    1  BEGIN IMMEDIATE
    2  rows, and the sums they change              crash here and later: nothing happened
    3  COMMIT, which returns after fsync
    4  the witness beside the file                 crash before: the witness is older, nothing is missed
    5  the callers learn it                        crash before: they repeat the same ids

A failed transaction leaves nothing, and the sums are read from the file again: a number is used once.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shared.postgres.outbox import OutboxMessage
from shared.runtime.failpoints import failpoint_in_thread
from shared.spool import places, schema, totals
from shared.spool.encoding import Ack, fingerprint, pack, pack_acks, unpack_acks, unpack_places
from shared.spool.errors import SpoolBroken, SpoolNotRegistered, spool_error
from shared.spool.owner import Owner, Witness, companion
from shared.spool.read import SetAside, StoredBatch

ROW_EVENTS = 5_000  # a row is read and unpacked whole
ROW_BYTES = 2 * 1024 * 1024  # of keys and values, before compression
CHECKPOINT_BYTES = 16 * 1024 * 1024
VACUUM_PAGES = 2_000  # one step of giving space back; appends wait for no longer than that


@dataclass(frozen=True, slots=True)
class Sent:
    """A row of which every event is acked, or set aside (its entry in `acks` is None then)."""

    batch: StoredBatch
    acks: Sequence[Ack | None]
    set_aside: Sequence[SetAside] = ()


class SpoolFile:
    """Used by one thread only, except `totals`, `used_bytes` and `log_bytes`, which others may read."""

    def __init__(self, path: Path, cap_bytes: int) -> None:
        """Raises Misconfigured (owned by another, not a spool, damaged), SpoolBroken and SpoolFull."""
        self.path = path
        self._broken: str | None = None
        self._owner = Owner(path)
        try:
            self._connection = schema.open_writer(path, cap_bytes, self._owner)
            self.totals = totals.load(self._connection)
            self._page_bytes = self._pragma("page_size")
            self.used_bytes, self.log_bytes = self._used(), self._log_bytes()
        except BaseException:
            self._owner.close()
            raise

    def close(self) -> None:
        """Closing copies the log into the file and removes it."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        self._owner.close()

    @property
    def file_bytes(self) -> int:
        """On disk, log included."""
        return _size(self.path) + self._log_bytes()

    def stamp(self) -> int:
        """Now, in microseconds, but never before an earlier stamp: a clock that is set back moves no event."""
        now_us = max(time.time_ns() // 1000, self.totals.clock_us)
        self.totals = replace(self.totals, clock_us=now_us)
        return now_us

    def append(self, messages: Sequence[OutboxMessage]) -> None:
        """Store in order. Raises SpoolRefused (nothing is stored) and SpoolBroken."""
        accepted_at_us = self.stamp()
        if self.totals.registered_topic is None or self.totals.retired_at_us is not None:
            raise SpoolNotRegistered(f"the spool {self.path} is not registered or retired")
        with self._transaction():
            for part in _parts(messages):
                block = pack(part)
                stored = len(block.payload)
                self._connection.execute(
                    "INSERT INTO batch VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        self.totals.next_sequence,
                        block.count,
                        accepted_at_us,
                        stored,
                        block.digest,
                        *block.fingerprint,
                        block.payload,
                    ),
                )
                whole = self.totals.accepted_fingerprint + block.fingerprint
                self.totals = replace(
                    self.totals,
                    next_sequence=self.totals.next_sequence + block.count,
                    accepted_total=self.totals.accepted_total + block.count,
                    unsent_bytes=self.totals.unsent_bytes + stored,
                    fingerprint_high=whole.high,
                    fingerprint_low=whole.low,
                )
            failpoint_in_thread("spool.append.before_commit")
        failpoint_in_thread("spool.append.after_commit")

    def mark(self, sent: Sequence[Sent]) -> None:
        """Remember the acks of whole rows, which follow the last marked one in order."""
        now_us = self.stamp()
        with self._transaction():
            for row in sent:
                self._mark(row, now_us)
            self.totals = replace(self.totals, attempts=0, attempted_at_us=None, attempt_error=None)

    def _mark(self, row: Sent, now_us: int) -> None:
        batch = row.batch
        topics = [message.topic for message in batch.messages]
        packed, acks = pack_acks(topics, row.acks)
        # A loss stands between two rows; nothing else may.
        assert batch.first_sequence >= self.totals.sent_below, "rows are marked once and in order"
        assert sum(ack is None for ack in row.acks) == len(row.set_aside)
        self._connection.execute(
            "INSERT INTO ack VALUES (?, ?, ?, ?, ?)",
            (batch.first_sequence, now_us, self.totals.attempts + 1, packed, acks),
        )
        places.acked(self._connection, unpack_places(packed), now_us)
        self._connection.executemany(
            "INSERT INTO aside VALUES (?, ?, ?, ?, ?)",
            [(a.sequence, batch.first_sequence, batch.accepted_at_us, a.code, a.error) for a in row.set_aside],
        )
        acked = [message for message, ack in zip(batch.messages, row.acks, strict=True) if ack is not None]
        self._forwarded(acked)
        self.totals = replace(
            self.totals,
            sent_below=batch.first_sequence + len(batch.messages),
            set_aside_total=self.totals.set_aside_total + len(row.set_aside),
            unsent_bytes=self.totals.unsent_bytes - batch.payload_bytes,
        )

    def mark_set_aside(self, sequence: int, message: OutboxMessage, ack: Ack) -> None:
        """An event that had been set aside is acked after all."""
        now_us = self.stamp()
        with self._transaction():
            connection = self._connection
            [first] = connection.execute("SELECT first_sequence FROM aside WHERE sequence = ?", (sequence,)).fetchone()
            stored = connection.execute("SELECT places, acks FROM ack WHERE first_sequence = ?", (first,)).fetchone()
            found = unpack_acks(*stored)
            found[sequence - first] = (message.topic, *ack)
            packed, acks = pack_acks(
                [place[0] if place else "" for place in found], [place[1:] if place else None for place in found]
            )
            # Its seven days begin again: the row is kept for its last event.
            connection.execute(
                "UPDATE ack SET acked_at_us = ?, places = ?, acks = ? WHERE first_sequence = ?",
                (now_us, packed, acks, first),
            )
            places.acked(connection, [(message.topic, *ack)], now_us)
            connection.execute("DELETE FROM aside WHERE sequence = ?", (sequence,))
            self._forwarded([message])
            self.totals = replace(self.totals, set_aside_total=self.totals.set_aside_total - 1)

    def _forwarded(self, messages: Sequence[OutboxMessage]) -> None:
        whole = self.totals.forwarded_fingerprint + fingerprint(messages)
        self.totals = replace(
            self.totals,
            forwarded_total=self.totals.forwarded_total + len(messages),
            forwarded_high=whole.high,
            forwarded_low=whole.low,
        )

    def failed_attempt(self, error: str) -> None:
        """Kafka did not take what is next; told with the row once it is acked."""
        now_us = self.stamp()
        with self._transaction():
            attempts = self.totals.attempts + 1
            self.totals = replace(self.totals, attempts=attempts, attempted_at_us=now_us, attempt_error=error[:500])

    def registered(self, topic: str) -> None:
        with self._transaction():
            self.totals = replace(self.totals, registered_topic=topic)

    def retire(self) -> None:
        """From here on nothing is accepted. Raises SpoolNotRegistered while something is unsent."""
        now_us = self.stamp()
        if self.totals.unsent_events:
            raise SpoolNotRegistered(
                f"the spool {self.path} holds {self.totals.unsent_events} unsent events: forward them"
            )
        with self._transaction():
            self.totals = replace(self.totals, retired_at_us=self.totals.retired_at_us or now_us)

    def observe(self, positions: Mapping[tuple[str, int], int]) -> places.Held:
        """Remember where the consumers stand; returns the partitions on which older acks prove nothing."""
        now_us = self.stamp()
        with self._transaction():
            places.observed(self._connection, positions, now_us)
        return places.held(self._connection)

    def release(self, topic: str, partition: int) -> None:
        """A person has decided that the acks of a re-created or rewound partition count again."""
        with self._transaction():
            places.release(self._connection, topic, partition)

    def delete(self, first_sequences: Sequence[int], acked_before_us: int) -> int:
        """Purge rows acked before then of which nothing is set aside; returns how many events went."""
        deleted = 0
        with self._transaction():
            for first in first_sequences:
                row = self._connection.execute(
                    """
                    SELECT event_count FROM batch JOIN ack USING (first_sequence)
                    WHERE first_sequence = ? AND acked_at_us <= ?
                      AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.first_sequence = batch.first_sequence)
                    """,
                    (first, acked_before_us),
                ).fetchone()
                if row is not None:
                    self._connection.execute("DELETE FROM ack WHERE first_sequence = ?", (first,))
                    self._connection.execute("DELETE FROM batch WHERE first_sequence = ?", (first,))
                    deleted += row[0]
        return deleted

    def give_back(self) -> bool:
        """Return one step of free pages to the disk; True while there are more."""
        if self._pragma("freelist_count") == 0:
            return False
        with self._transaction():
            self._connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
        self.checkpoint(always=True)
        return self._pragma("freelist_count") > 0

    def checkpoint(self, always: bool = False) -> None:
        """Copy the log into the file when it has grown; a disk that refuses leaves the log as it is."""
        if not always and self._log_bytes() < CHECKPOINT_BYTES:
            return
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            found = spool_error(error, self.path)
            if isinstance(found, SpoolBroken):
                self._broken = str(found)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        if self._broken is not None:
            raise SpoolBroken(self._broken)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self.totals = replace(self.totals, commits=self.totals.commits + 1)
            totals.save(self._connection, self.totals)
            used = self._used()
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._undo(error)
            raise
        self.used_bytes, self.log_bytes = used, self._log_bytes()
        self._owner.witness(Witness(self.totals.commits, self.totals.next_sequence))

    def _undo(self, error: BaseException) -> None:
        """Roll back and read again; raises the spool's error for one of SQLite's."""
        clock_us = self.totals.clock_us
        found = spool_error(error, self.path) if isinstance(error, sqlite3.Error) else None
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self.totals = replace(totals.load(self._connection), clock_us=clock_us)
        except sqlite3.Error as second:
            self._broken = f"the spool {self.path} cannot be read after {error}: {second}"
            raise SpoolBroken(self._broken) from error
        if isinstance(found, SpoolBroken):
            self._broken = str(found)
        if found is not None:
            raise found from error

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    def _used(self) -> int:
        """Live pages, and what the log holds beyond its usual size (a checkpoint that does not get on)."""
        live = (self._pragma("page_count") - self._pragma("freelist_count")) * self._page_bytes
        return live + max(0, self._log_bytes() - 2 * CHECKPOINT_BYTES)

    def _log_bytes(self) -> int:
        return _size(companion(self.path, "-wal"))

    def oldest_unsent_at_us(self) -> int | None:
        """When the oldest event that Kafka does not have was accepted."""
        [oldest] = self._connection.execute(
            """
            SELECT min(at) FROM (
                SELECT accepted_at_us AS at FROM
                    (SELECT accepted_at_us FROM batch WHERE first_sequence >= ? ORDER BY first_sequence LIMIT 1)
                UNION ALL SELECT min(accepted_at_us) FROM aside
            )
            """,
            (self.totals.sent_below,),
        ).fetchone()
        return None if oldest is None else int(oldest)


def _parts(messages: Sequence[OutboxMessage]) -> Iterator[Sequence[OutboxMessage]]:
    """Cut into rows of bounded size."""
    begin, size = 0, 0
    for index, message in enumerate(messages):
        own = len(message.value or b"") + len(message.key or b"")
        if index > begin and (index - begin >= ROW_EVENTS or size + own > ROW_BYTES):
            yield messages[begin:index]
            begin, size = index, 0
        size += own
    yield messages[begin:]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
