"""Where the spool is and how much of the disk it may take."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pydantic import Field

from shared.runtime.settings import Settings

MIB = 1024 * 1024


class SpoolSettings(Settings):
    """One spool of one process; each process needs a file of its own on a disk that outlives it."""

    spool_path: Path = Field(description="file of the spool (SQLite), on a local disk that outlives the process")
    spool_cap_bytes: int = Field(
        4096 * MIB, ge=MIB, description="largest size of the file; its log (-wal) may add about 64 MiB"
    )
    spool_shed_percent: int = Field(
        85, ge=1, le=95, description="above this share of the cap nothing more is accepted; the rest is for acks"
    )
    spool_min_free_bytes: int = Field(
        512 * MIB, ge=0, description="nothing is accepted while the disk has less than this free"
    )
    spool_keep_days: float = Field(
        7.0, ge=0, description="days a forwarded event stays after Kafka's ack; shorter while room is short"
    )

    @property
    def shed_bytes(self) -> int:
        return self.spool_cap_bytes * self.spool_shed_percent // 100

    @property
    def keep(self) -> timedelta:
        return timedelta(days=self.spool_keep_days)
