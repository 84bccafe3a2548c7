"""A pid alone does not say which process is meant."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

from devstack.identity import Identity, command_line

from .conftest import wait_until


def test_a_process_is_alive_until_it_ends_even_when_nobody_reaps_it() -> None:
    process = subprocess.Popen(["sleep", "600"])
    identity = Identity.of(process.pid)
    assert identity is not None
    assert identity.alive()
    process.kill()
    wait_until(lambda: not identity.alive(), "the zombie counts as gone")
    process.wait()
    assert Identity.of(process.pid) is None


def test_another_process_with_the_same_pid_is_not_the_one_that_was_meant() -> None:
    us = Identity.of(os.getpid())
    assert us is not None
    assert us.alive()
    assert not replace(us, started="an earlier boot").alive()


def test_a_command_line_tells_what_a_pid_is_now() -> None:
    assert sys.executable in command_line(os.getpid())
    assert command_line(2**22 + 1) == ""
