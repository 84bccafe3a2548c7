"""How much memory a process holds, as Linux tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

needs_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak")


def held_mb(pid: int) -> int:
    return _status_kb(pid, "VmRSS") >> 10


def peak_mb(pid: int) -> int:
    """The most since it began."""
    return _status_kb(pid, "VmHWM") >> 10


def _status_kb(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
