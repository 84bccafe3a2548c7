"""stack.json: how processes find the stack of a home, and what a killed one left behind."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from devstack.home import Home, read_json, write_json
from devstack.identity import Identity
from devstack.processes import end_leftover
from shared.domain.errors import Fatal

SETTLE_S = 0.15
LOSS_S = 1.0
LEFTOVER_S = 20.0  # what the kernel has told to end by now is writing its last checkpoint


@dataclass(frozen=True, slots=True)
class Server:
    """A server of the stack; `stop_signal` asks it to end in order."""

    identity: Identity
    log: Path
    stop_signal: int


@dataclass(frozen=True, slots=True)
class Record:
    """A stack that was up when this was written; `supervisor` is the process that started the servers."""

    supervisor: Identity
    kafka_bootstrap: str
    database_url: str
    servers: Mapping[str, Server]

    def save(self, home: Home) -> None:
        write_json(home.stack_file, asdict(self) | {"servers": {n: _plain(s) for n, s in self.servers.items()}})

    @classmethod
    def load(cls, home: Home) -> Record | None:
        found = read_json(home.stack_file)
        if found is None:
            return None
        servers = {
            name: Server(Identity(**each["identity"]), Path(each["log"]), each["stop_signal"])
            for name, each in found["servers"].items()
        }
        return cls(Identity(**found["supervisor"]), found["kafka_bootstrap"], found["database_url"], servers)


def running(home: Home) -> Record | None:
    """The live stack of this home. Raises Fatal when its supervisor lives but has lost a server.

    A process that has just been killed looks alive until it gets the processor once more, so a first look proves
    nothing: life must be seen again `SETTLE_S` later, and a loss must last `LOSS_S`."""
    began = time.monotonic()
    while True:
        record = Record.load(home)
        if record is None or not record.supervisor.alive():
            return None
        lost = [(name, server) for name, server in record.servers.items() if not server.identity.alive()]
        waited_s = time.monotonic() - began
        if not lost and waited_s >= SETTLE_S:
            return record
        if lost and waited_s >= LOSS_S:
            name, server = lost[0]
            raise Fatal(
                f"process {record.supervisor.pid} runs the stack of {home.root} but its {name} has ended; "
                f"stop that process and start again. Its log: {server.log}"
            )
        time.sleep(0.02)


def services_supervisor(home: Home) -> Identity | None:
    """The live process that supervises services of this home."""
    found = read_json(home.services_file)
    supervisor = Identity(**found["supervisor"]) if found else None
    return supervisor if supervisor and supervisor.alive() else None


def end_leftovers(home: Home, report: Callable[[str], None]) -> None:
    """End what killed parents left running, and forget them. For the holder of the home's lock, once nothing is
    `running`: the kernel (or the guard) has told these processes to end, some just need a moment."""
    record = Record.load(home)
    for name, server in record.servers.items() if record else ():
        if server.identity.alive():
            report(f"ending the {name} of an earlier start (process {server.identity.pid})")
            end_leftover(server.identity, signal.Signals(server.stop_signal), LEFTOVER_S)
    home.stack_file.unlink(missing_ok=True)
    if services_supervisor(home) is None and (found := read_json(home.services_file)):
        for each in found["services"].values():
            if each["identity"]:
                end_leftover(Identity(**each["identity"]), signal.SIGTERM, LEFTOVER_S)
        home.services_file.unlink()


def _plain(server: Server) -> dict[str, object]:
    return asdict(server) | {"log": str(server.log)}
