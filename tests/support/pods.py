"""Service processes that a test starts, kills, freezes and replaces itself; nobody else starts them again."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from devstack.processes import Child, Command, spawn
from devstack.supervisor import answers_200
from tests.support.services import PEPPERS, free_port

READY_S = 30.0


@dataclass
class Pod:
    """One `khata run <service>`; its environment is also its identity: start it again and it is the same pod."""

    name: str
    service: str
    home: Path
    env: Mapping[str, str] = field(repr=False)
    http_port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    child: Child | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def log(self) -> Path:
        return self.home / f"{self.name}.log"

    @property
    def pid(self) -> int:
        assert self.child is not None
        return self.child.pid

    def start(self, *, wait: bool = True) -> Pod:
        """Once more, with the same ports."""
        own = {
            "KEY_PEPPERS": PEPPERS,
            "KHATA_INSTANCE": self.name,
            "METRICS_PORT": str(self.metrics_port),
            "HTTP_PORT": str(self.http_port),
        }
        argv = (sys.executable, "-m", "cli", "run", self.service)
        self.child = spawn(Command(self.name, argv, self.log, {**os.environ, **own, **self.env}))
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, deadline_s: float = READY_S) -> None:
        end = time.monotonic() + deadline_s
        while not self.ready():
            assert self.child is not None
            if self.child.exit_code is not None:
                raise self.child.ended()
            assert time.monotonic() < end, f"{self.name} is not ready; {self.log.read_text()[-2000:]}"
            time.sleep(0.02)

    def ready(self) -> bool:
        return answers_200(f"http://127.0.0.1:{self.metrics_port}/readyz")

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        assert self.child is not None
        self.child.kill()

    def terminate(self, deadline_s: float = 30.0) -> int | None:
        """SIGTERM; its exit code, None when it has not ended in time."""
        assert self.child is not None
        self.child.send(signal.SIGTERM)
        return self.child.wait(deadline_s)

    def wait(self, deadline_s: float = 30.0) -> int | None:
        """Its exit code once it ends by itself."""
        assert self.child is not None
        return self.child.wait(deadline_s)

    def limit_files(self, most_bytes: int | None) -> None:
        """No file of the process may grow beyond this (EFBIG): a disk that is full, for this process alone."""
        limit_files(self.pid, most_bytes)


def limit_files(pid: int, most_bytes: int | None) -> None:
    """RLIMIT_FSIZE of a living process; None takes it away again."""
    soft = resource.RLIM_INFINITY if most_bytes is None else most_bytes
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))
