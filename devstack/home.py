"""The folder that holds one stack: data, logs, and the files by which processes find each other.

stack.lock      flock: one start, stop or reset at a time; its presence marks a folder as ours
stack.json      who runs the stack, its addresses and children (0600: it holds the database password)
services.json   who supervises the services, with their pids and logs
ports.json      the ports of the last start, taken again when free
kafka/  postgres/  logs/
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.domain.errors import Fatal, Misconfigured

LOCK_WAIT_S = 180.0  # the other holder may be fetching Kafka's jars for the first time


@dataclass(frozen=True, slots=True)
class Home:
    root: Path

    @classmethod
    def at(cls, root: Path) -> Home:
        """The home at `root`, made when missing. Others may enter it (never read its secrets): under root the
        database server runs as another account."""
        root = root.absolute()
        if not root.exists():
            root.mkdir(parents=True)
            root.chmod(0o755)
        return cls(root.resolve())

    @property
    def lock_file(self) -> Path:
        return self.root / "stack.lock"

    @property
    def stack_file(self) -> Path:
        return self.root / "stack.json"

    @property
    def services_file(self) -> Path:
        return self.root / "services.json"

    @property
    def ports_file(self) -> Path:
        return self.root / "ports.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    @contextmanager
    def locked(self, report: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """Hold this home alone. Raises Fatal when another process holds it longer than `LOCK_WAIT_S`, and
        Misconfigured when something in it turns out to be another account's."""
        try:
            with self.lock_file.open("a") as file:
                _acquire(file.fileno(), self, report)
                yield  # closing the file lets go of the lock, and so does our death
        except PermissionError as error:
            raise Misconfigured(
                f"{error.filename} belongs to another account; start as the one that made {self.root}, "
                "or choose another home"
            ) from error

    def ports(self, names: tuple[str, ...]) -> dict[str, int]:
        """A free TCP port for each name, the one of the last start where it is still free; remembered."""
        remembered: Mapping[str, int] = read_json(self.ports_file) or {}
        chosen: dict[str, int] = {}
        for name in names:
            last = remembered.get(name)
            chosen[name] = last if last and last not in chosen.values() and is_free(last) else _free_port()
        write_json(self.ports_file, {**remembered, **chosen})
        return chosen


def is_free(port: int) -> bool:
    """Nothing listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no obstacle
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def read_json(path: Path) -> Any:
    """The content of a state file; None when there is none or it is not whole (then it tells us nothing)."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def write_json(path: Path, value: object) -> None:
    write_private(path, json.dumps(value, indent=2) + "\n")


def write_private(path: Path, text: str) -> None:
    """Replace `path` in one step, readable by its owner alone from its first byte on."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    new.replace(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _acquire(fd: int, home: Home, report: Callable[[str], None]) -> None:
    deadline = time.monotonic() + LOCK_WAIT_S
    told = False
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Fatal(f"another process has held {home.lock_file} for {LOCK_WAIT_S:.0f} s") from None
        if not told:
            report(f"waiting for another start or stop of {home.root}")
            told = True
        time.sleep(0.05)
