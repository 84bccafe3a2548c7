"""The first program of a child: no child without a living parent, and a plain word when it cannot start."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from devstack.identity import command_line
from devstack.processes import LAUNCH, Child, ChildEnded, Command, run, spawn

from .conftest import wait_until


def launch(parent: int, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(LAUNCH), str(parent), "9", "-", "-", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_becomes_the_program() -> None:
    done = launch(os.getpid(), "echo", "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the guard's pipe tells")
def test_it_does_not_start_the_program_of_a_parent_that_is_gone() -> None:
    done = launch(2**22 + 1, "echo", "hello")
    assert (done.returncode, done.stdout) == (127, "")


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    command = Command("ghost", ("no-such-program",), tmp_path / "ghost.log", dict(os.environ))
    with pytest.raises(ChildEnded, match="cannot start no-such-program: No such file"):
        run(command, timeout_s=10)


def test_a_program_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    command = Command("slow", ("sleep", "600"), tmp_path / "slow.log", dict(os.environ))
    with pytest.raises(ChildEnded, match="did not end within"):
        run(command, timeout_s=0.2)


def test_a_child_lives_on_when_the_thread_that_asked_for_it_ends(tmp_path: Path) -> None:
    command = Command("sleeper", ("sleep", "600"), tmp_path / "sleeper.log", dict(os.environ))
    started: list[Child] = []
    may_end = threading.Event()
    thread = threading.Thread(target=lambda: (started.append(spawn(command)), may_end.wait()))
    thread.start()
    wait_until(lambda: bool(started) and command_line(started[0].pid).startswith("sleep"), "it runs")
    may_end.set()
    thread.join()
    try:
        assert started[0].wait(0.3) is None
    finally:
        started[0].kill()
