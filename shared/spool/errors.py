"""What a spool raises, named by what the caller does next.

SpoolRefused(Retryable)   not accepted: answer 503, the sender tries the same ids again
├── SpoolFull             shedding: cap, free disk or the queue before the disk
├── SpoolNotRegistered    Kafka has never acknowledged that this spool exists, or it is retired
├── SpoolFailed           the disk refused the commit; the outcome is unknown, as with any lost answer
└── SpoolClosed           the process is stopping
SpoolBroken(Fatal)        the file or its disk can no longer be trusted; stop, a person must look
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from shared.domain.errors import Fatal, Retryable


class SpoolRefused(Retryable):
    """The call was not accepted by the spool; "yes" must not be answered."""


class SpoolFull(SpoolRefused):
    """No room below the limits that keep the disk from filling."""


class SpoolNotRegistered(SpoolRefused):
    """The spool may not accept: a close of a month would not know to wait for it."""


class SpoolFailed(SpoolRefused):
    """The commit failed for a reason that may pass; everyone in that commit gets this."""


class SpoolClosed(SpoolRefused):
    """The spool is closing."""


class SpoolBroken(Fatal):
    """What the disk says is not what was written, or it failed to make it durable."""


# After a failed fsync the kernel may have dropped the dirty pages, so a later success proves nothing; the
# others mean that what is read is not what was written.
_BROKEN = ("SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC", "SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_READ")
# A limit on the size of files (EFBIG) and a full file system under the -shm file come as these.
_FULL = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE")


def spool_error(error: sqlite3.Error, path: Path) -> SpoolRefused | SpoolBroken:
    """The error above for one of SQLite's."""
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    text = f"spool {path}: {error} ({name})"
    if name.startswith(_BROKEN):
        return SpoolBroken(f"{text}; stop, check the disk, keep the file with its -wal and -owner and start again")
    if name.startswith(_FULL):
        return SpoolFull(f"{text}; make room, or forward and purge first")
    return SpoolFailed(text)
