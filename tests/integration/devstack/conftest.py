"""Homes for stacks that are wiped afterwards, and parents to kill."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from devstack.stack import reset

PARENT = Path(__file__).with_name("parent.py")
NO_KAFKA = "127.0.0.1:1"  # an address given: this test needs Postgres alone


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class Parent:
    """A process that runs a stack (or a supervisor) and waits to be killed."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PARENT), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, f"the parent ended with {self.process.wait()} before it was ready"
        told: dict[str, Any] = json.loads(line)
        return told

    def family(self) -> list[psutil.Process]:
        """Every process below it, servers' own children included."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def finish(self) -> None:
        """Let it stop in order."""
        assert self.process.stdin
        self.process.stdin.close()
        assert self.process.wait(30) == 0

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            pipe.close()


def assert_all_gone(processes: list[psutil.Process]) -> None:
    assert processes

    def gone(process: psutil.Process) -> bool:
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    wait_until(lambda: all(map(gone, processes)), f"gone: {[p for p in processes if not gone(p)]}")


@pytest.fixture
def parents() -> Iterator[Callable[..., Parent]]:
    started: list[Parent] = []

    def start(*arguments: object) -> Parent:
        started.append(Parent(*arguments))
        return started[-1]

    yield start
    for parent in started:
        parent.close()


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that the database's account can enter (pytest's own are closed to other accounts)."""
    parent = Path(tempfile.mkdtemp(prefix="khata-test-"))
    parent.chmod(0o755)
    yield parent / "home"
    reset(parent / "home")
    shutil.rmtree(parent)


@pytest.fixture
def closed_home() -> Iterator[Path]:
    """A folder below one that only root may enter."""
    if os.geteuid() != 0:
        pytest.skip("only root runs the database under another account")
    parent = Path(tempfile.mkdtemp(prefix="khata-test-"))
    parent.chmod(0o700)
    yield parent / "home"
    reset(parent / "home")
    shutil.rmtree(parent)
