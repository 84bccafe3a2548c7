"""Which process a pid meant when it was written down: pids are used again, pid and start time are not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Identity:
    """One process of this boot. `started` is opaque: compare it, do not read it as a time."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The process that has `pid` now; None when there is none, or only a zombie nobody has reaped yet."""
        started = _started_by_proc(pid) if sys.platform == "linux" else _started_by_ps(pid)
        return cls(pid, started) if started else None

    def alive(self) -> bool:
        return Identity.of(self.pid) == self


def command_line(pid: int) -> str:
    """The command line of a running process; empty when it is gone."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    return _ps(pid, "command=")


def _started_by_proc(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    # proc(5): the name in parentheses may hold anything, so count from the last one: state is field 3,
    # starttime (clock ticks since boot) field 22.
    fields = stat.rpartition(")")[2].split()
    state, ticks = fields[0], fields[19]
    return "" if state in "ZX" else f"{_boot()}/{ticks}"


@cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _started_by_ps(pid: int) -> str:
    state, _, started = _ps(pid, "state=,lstart=").partition(" ")
    return "" if state.startswith("Z") else started.strip()


def _ps(pid: int, columns: str) -> str:
    done = subprocess.run(["ps", "-ww", "-o", columns, "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()
