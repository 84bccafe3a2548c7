"""Open or make the file: pragmas, tables, and every doubt about it told before anything is written."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from shared.domain.errors import Misconfigured
from shared.observability import logging
from shared.spool import totals
from shared.spool.errors import SpoolBroken, SpoolFull, spool_error
from shared.spool.owner import Owner, companion

APPLICATION_ID = 0x4B535031  # "KSP1", in the file's header
VERSION = 1
PAGE_BYTES = 8192
# The log is kept at this size once it has grown: on a full disk acks and purges still have their room in it.
LOG_KEEP_BYTES = 64 * 1024 * 1024

_TABLES = """
CREATE TABLE spool (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id TEXT NOT NULL,
    registered_topic TEXT,
    retired_at_us INTEGER,
    commits INTEGER NOT NULL,
    next_sequence INTEGER NOT NULL,
    sent_below INTEGER NOT NULL CHECK (sent_below <= next_sequence),
    accepted_total INTEGER NOT NULL CHECK (accepted_total + lost_total = next_sequence - 1),
    forwarded_total INTEGER NOT NULL CHECK (forwarded_total BETWEEN 0 AND accepted_total),
    lost_total INTEGER NOT NULL,
    set_aside_total INTEGER NOT NULL CHECK (set_aside_total >= 0),
    unsent_bytes INTEGER NOT NULL CHECK (unsent_bytes >= 0),
    fingerprint_high INTEGER NOT NULL,
    fingerprint_low INTEGER NOT NULL,
    forwarded_high INTEGER NOT NULL,
    forwarded_low INTEGER NOT NULL,
    clock_us INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    attempted_at_us INTEGER,
    attempt_error TEXT
);
-- One row per commit or part of it: the events of first_sequence .. first_sequence + event_count - 1.
CREATE TABLE batch (
    first_sequence INTEGER PRIMARY KEY,
    event_count INTEGER NOT NULL CHECK (event_count > 0),
    accepted_at_us INTEGER NOT NULL,
    payload_bytes INTEGER NOT NULL,
    digest BLOB NOT NULL,
    fingerprint_high INTEGER NOT NULL,
    fingerprint_low INTEGER NOT NULL,
    payload BLOB NOT NULL
);
-- Beside the batch, not in it: marking must not write the payload again.
CREATE TABLE ack (
    first_sequence INTEGER PRIMARY KEY REFERENCES batch,
    acked_at_us INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    places BLOB NOT NULL,
    acks BLOB NOT NULL
);
CREATE INDEX ack_by_time ON ack (acked_at_us);
-- Events that Kafka refuses for good. They stay unsent, so that no close passes over them.
CREATE TABLE aside (
    sequence INTEGER PRIMARY KEY,
    first_sequence INTEGER NOT NULL REFERENCES batch,
    accepted_at_us INTEGER NOT NULL,
    code TEXT NOT NULL,
    error TEXT NOT NULL
);
-- What is known of each partition's offsets; held: they went backwards, so older acks prove nothing.
CREATE TABLE place (
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    acked_offset INTEGER NOT NULL,
    consumed_position INTEGER,
    held_since_us INTEGER,
    PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
CREATE TABLE loss (
    first_sequence INTEGER PRIMARY KEY,
    event_count INTEGER NOT NULL,
    found_at_us INTEGER NOT NULL
);
"""

log = logging.get(__name__)


def open_writer(path: Path, cap_bytes: int, owner: Owner) -> sqlite3.Connection:
    """The connection that writes. Raises Misconfigured when the file is not what its companions say.

    It is also the only one that checkpoints: two connections doing that at one moment is the one way in
    which SQLite's write-ahead log has been damaged by itself (fixed in 3.51.3).
    """
    _refuse_to_start_empty(path, owner)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size and path.read_bytes()[:16] != b"SQLite format 3\x00":
            raise Misconfigured(f"{path} is no spool and no SQLite file; set SPOOL_PATH to another file, keep this one")
    try:
        connection = _connect(path)
        _check_or_create(connection, path, owner)
        connection.execute(f"PRAGMA max_page_count = {cap_bytes // PAGE_BYTES}")
        _name_losses(connection, path, owner)
    except sqlite3.Error as error:
        found = spool_error(error, path)
        if isinstance(found, SpoolFull):
            raise found from error
        raise Misconfigured(
            f"the spool {path} cannot be opened ({error}). It may hold accepted events: keep it with its -wal and "
            "-owner, restore the disk or copy what `sqlite3 .recover` finds, and only then set another SPOOL_PATH"
        ) from error
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    connection = _connect(path)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
    for pragma in (
        f"page_size = {PAGE_BYTES}",
        "auto_vacuum = INCREMENTAL",  # like page_size: only before the first table
        "journal_mode = WAL",
        "synchronous = FULL",
        "fullfsync = ON",  # macOS: fsync alone does not reach the disk
        "checkpoint_fullfsync = ON",
        "wal_autocheckpoint = 0",  # the writer does it, after the callers have their answer
        f"journal_size_limit = {LOG_KEEP_BYTES}",
        "secure_delete = OFF",
        "foreign_keys = ON",
        "cache_size = -8192",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _check_or_create(connection: sqlite3.Connection, path: Path, owner: Owner) -> None:
    application, version, tables = (
        connection.execute(query).fetchone()[0]
        for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_schema")
    )
    if (application, version, tables) == (0, 0, 0) and not owner.witnessed().commits:
        with _transaction(connection):
            for statement in _TABLES.split(";\n"):
                connection.execute(statement)
            totals.create(connection, str(uuid.uuid4()))
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        # Into the file at once: the spool's id does not depend on its log.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        # The name of the new file must outlive a power loss as well.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return
    if application != APPLICATION_ID:
        raise Misconfigured(f"{path} is a SQLite file but no spool: set SPOOL_PATH to another file, keep this one")
    if version != VERSION:
        raise Misconfigured(
            f"the spool {path} has format {version}, this release reads {VERSION}: forward it with the release that "
            "wrote it, then change"
        )


def _refuse_to_start_empty(path: Path, owner: Owner) -> None:
    """A file that is gone while its companions stand is not a new spool (SQLite would make one and say nothing)."""
    if path.exists() and path.stat().st_size:
        return
    log_file = companion(path, "-wal")
    if owner.witnessed().commits or (log_file.exists() and log_file.stat().st_size):
        raise Misconfigured(
            f"the spool {path} is gone or empty, but {path.name}-owner or -wal beside it says it held events: restore "
            "the file, or move these companions away to begin a new spool (accepted events may be lost by that)"
        )


def _name_losses(connection: sqlite3.Connection, path: Path, owner: Owner) -> None:
    """Compare with the witness, and count what a damaged log has lost: what is lost is told, never hidden.

    Raises Misconfigured when what is left does not fit together (a log that was cut after it had been copied
    into the file in part), and SpoolBroken when events are missing that the witness does not explain.
    """
    known = totals.load(connection)
    witnessed = owner.witnessed()
    if witnessed.commits > known.commits:
        kept = _keep_log(path)
        [[sound]] = connection.execute("PRAGMA quick_check(1)").fetchall()
        if sound != "ok":
            raise Misconfigured(
                f"the write-ahead log of the spool {path} is damaged and the file does not fit it ({sound}). Keep all "
                f"its files; on a copy, try without the -wal, then `sqlite3 .recover`; set another SPOOL_PATH meanwhile"
            )
        lost = max(0, witnessed.next_sequence - known.next_sequence)
        log.error("spool.lost", spool=known.id, events=lost, first=known.next_sequence, damaged_log=kept)
        with _transaction(connection):
            if lost:
                now_us = time.time_ns() // 1000
                connection.execute("INSERT INTO loss VALUES (?, ?, ?)", (known.next_sequence, lost, now_us))
            # The lost block stands in the sequence, so a number never names two events.
            known = replace(
                known,
                commits=witnessed.commits + 1,
                next_sequence=known.next_sequence + lost,
                lost_total=known.lost_total + lost,
            )
            totals.save(connection, known)
    stored = connection.execute(
        "SELECT coalesce(sum(event_count), 0) FROM batch WHERE first_sequence >= ?", (known.sent_below,)
    )
    aside = connection.execute("SELECT count(*) FROM aside").fetchone()[0]
    found = stored.fetchone()[0] + aside
    if found != known.unsent_events or aside != known.set_aside_total:
        raise SpoolBroken(
            f"the spool {path} counts {known.unsent_events} unsent events but holds {found}: keep it with its -wal and "
            "-owner and restore the disk; set another SPOOL_PATH to accept meanwhile"
        )


def _keep_log(path: Path) -> str | None:
    """A copy of the damaged log, for people, before the next write begins it anew."""
    log_file = companion(path, "-wal")
    if not log_file.exists():
        return None
    kept = companion(path, f"-wal.damaged-{int(time.time())}")
    shutil.copyfile(log_file, kept)
    return kept.name


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
