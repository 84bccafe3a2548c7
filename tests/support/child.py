"""A module of the tests as a process of its own, to be killed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from devstack.processes import Child, Command, spawn


@contextmanager
def module(
    name: str, *arguments: str, home: Path, env: Mapping[str, str], points: Path | None = None
) -> Iterator[Child]:
    """`python -m name`, killed at the end; it holds at the failpoints of the folder `points`. Its log is in `home`."""
    short = name.rpartition(".")[2]
    whole = {**os.environ, **env} | ({} if points is None else {"KHATA_FAILPOINTS_DIR": str(points)})
    child = spawn(Command(short, (sys.executable, "-m", name, *arguments), home / f"{short}.log", whole))
    try:
        yield child
    finally:
        child.kill()
