"""The owner file beside the spool: one owner at a time, and a witness of how far the spool had come.

`<file>-owner` is locked (flock) as long as its process lives. It also holds how many transactions were
committed and the next sequence number, written after each commit and not fsynced: a write-ahead log that was
cut or overwritten afterwards is noticed at the next start, because SQLite itself takes what is left for the
whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import NamedTuple

from shared.domain.errors import Misconfigured

_FORMAT = "{:020d} {:020d} commits and next sequence of the spool beside this file\n"


class Witness(NamedTuple):
    """What was last reported as committed; zeros when nothing ever was."""

    commits: int = 0
    next_sequence: int = 0


class Owner:
    """Holds the lock from creation to `close`. Raises Misconfigured when another holds it, or without a folder."""

    def __init__(self, spool: Path) -> None:
        path = companion(spool, "-owner")
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:  # a folder that is missing is not made: it may be a disk that is not mounted
            raise Misconfigured(f"SPOOL_PATH {spool}: {path} cannot be opened ({error.strerror})") from error
        try:
            # flock, not lockf: it also excludes a second owner inside this process, and closing some other
            # descriptor of the file does not give it up.
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise Misconfigured(
                f"the spool {spool} is owned by a running process: give each process a SPOOL_PATH of its own, "
                "or stop the other one first"
            ) from None
        except OSError as error:
            os.close(self._fd)
            raise Misconfigured(f"the spool {spool} cannot be locked ({error.strerror}): use a local disk") from error

    def witnessed(self) -> Witness:
        """As last written; nothing when the text is unreadable."""
        words = os.pread(self._fd, 41, 0).split()
        return Witness(*map(int, words)) if len(words) == 2 and all(word.isdigit() for word in words) else Witness()

    def witness(self, seen: Witness) -> None:
        """Remember what was committed; a full disk may refuse, and then the witness is only older."""
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, _FORMAT.format(*seen).encode(), 0)

    def close(self) -> None:
        os.close(self._fd)


def companion(spool: Path, suffix: str) -> Path:
    """A file that belongs to the spool: -wal, -shm, -owner."""
    return spool.with_name(spool.name + suffix)
