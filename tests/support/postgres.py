"""A Postgres of the test's own, to be stopped and killed."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devstack.stack import Stack, reset


class Postgres:
    """It comes back at the same address with the same data."""

    def __init__(self, home: Path, bootstrap: str) -> None:
        self._home, self._bootstrap = home, bootstrap
        self.start()

    def start(self) -> None:
        self._stack = Stack.start(self._home, kafka_bootstrap=self._bootstrap, report=lambda _: None)
        self.url = self._stack.addresses.database_url

    def stop(self) -> None:
        self._stack.stop()

    def kill(self) -> None:
        """SIGKILL to the server; its sessions end by themselves, and the next start recovers."""
        self._end(signal.SIGKILL)

    def stop_at_once(self) -> None:
        """An immediate shutdown: the server ends its sessions and writes nothing more."""
        self._end(signal.SIGQUIT)

    def _end(self, number: signal.Signals) -> None:
        os.kill(self._stack.pids()["postgres"], number)
        self._stack.stop()


@contextmanager
def private_postgres(bootstrap: str) -> Iterator[Postgres]:
    """`bootstrap` is only handed on: no Kafka is started for it."""
    home = Path(tempfile.mkdtemp(prefix="khata-postgres-"))
    home.chmod(0o755)
    server = Postgres(home, bootstrap)
    try:
        yield server
    finally:
        server.stop()
        reset(home)
