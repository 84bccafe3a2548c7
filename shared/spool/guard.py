"""Two limits that keep a spool from ever filling its disk: the file's cap and the disk's free space.

Shedding begins below both, because what follows acceptance needs room too: acks are written, purges delete
(both write before they free). SQLite's own `max_page_count` stands behind as the wall nobody passes.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from shared.spool.errors import SpoolFull
from shared.spool.settings import SpoolSettings

# How old a look at the disk may be: others write to it too.
LOOK_AGAIN_S = 0.25
LOW_BYTES = 32 * 1024 * 1024
# What waits for the disk in memory: beyond it callers are refused instead of the process growing.
MAX_QUEUED_BYTES = 64 * 1024 * 1024


@dataclass
class Guard:
    """Asked before anything is taken; `used_bytes` and `log_bytes` are told by the writer after each transaction."""

    settings: SpoolSettings
    used_bytes: int = 0
    log_bytes: int = 0  # of the write-ahead log: the file grows by up to that when it is copied there
    _free_bytes: int = 0
    _looked_at: float = field(default=float("-inf"))

    def admit(self, incoming_bytes: int, queued_bytes: int) -> None:
        """Raises SpoolFull. `incoming_bytes` and `queued_bytes` are plain sizes: stored, they are smaller."""
        settings = self.settings
        if queued_bytes + incoming_bytes > MAX_QUEUED_BYTES:
            raise SpoolFull(f"the disk of {settings.spool_path} is too slow: {queued_bytes} bytes wait for it")
        wanted = self.used_bytes + queued_bytes + incoming_bytes
        if wanted > settings.shed_bytes:
            raise SpoolFull(
                f"the spool {settings.spool_path} is full: {self.used_bytes} of {settings.spool_cap_bytes} bytes used, "
                f"nothing is accepted above {settings.spool_shed_percent} %"
            )
        # Twice: once in the log, once in the file. What was admitted since the last look is taken off.
        needed = 2 * incoming_bytes
        if self._free() < settings.spool_min_free_bytes + self.log_bytes + needed:
            raise SpoolFull(
                f"the disk of the spool {settings.spool_path} has {self._free_bytes} bytes free, "
                f"SPOOL_MIN_FREE_BYTES asks for {settings.spool_min_free_bytes} and the room to work"
            )
        self._free_bytes -= needed

    @property
    def crowded(self) -> bool:
        """True above half of what may be used: what the consumers have must make room before callers are refused."""
        return self.used_bytes > self.settings.shed_bytes // 2

    @property
    def low(self) -> bool:
        """True when the log should be copied at once: its copy needs room that may soon be gone."""
        return self._free() < self.settings.spool_min_free_bytes + LOW_BYTES

    def _free(self) -> int:
        now = time.monotonic()
        if now - self._looked_at > LOOK_AGAIN_S:
            self._free_bytes, self._looked_at = free_bytes(self.settings.spool_path), now
        return self._free_bytes


def free_bytes(path: Path) -> int:
    """What an ordinary process may still write on the disk of `path`; a disk that does not answer has no room."""
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return 0
