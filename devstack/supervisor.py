"""Runs Khata's service processes: start, wait until ready, start again what ends by itself, stop in order.

One thread per service waits for its process, so a restart begins the moment the old process is gone.
services.json always tells the current pids.
"""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from devstack.home import Home, read_json, write_json
from devstack.identity import Identity
from devstack.processes import Child, Command, end_all, fresh_log, how_it_ended, last_lines, spawn
from devstack.record import services_supervisor
from shared.domain.errors import Fatal, Misconfigured, Usage

BAD_CONFIGURATION = 78  # EX_CONFIG of sysexits.h: starting again cannot help
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
STEADY_S = 10.0  # a process that lived this long was fine: its end does not count against the next one
STOP_S = 25.0  # a service's own drain takes up to 20 s
READY_S = 60.0
PROBE_S = 2.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One service process. `env` is laid over our environment; `ready_url` answers 200 once it may be used
    (None: it is ready as soon as it runs)."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)  # it holds passwords
    ready_url: str | None = None


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What services.json tells of one service; `pid` is None between two processes and after the last."""

    name: str
    pid: int | None
    ready_url: str | None
    log: Path
    restarts: int


class Supervisor:
    """The services of one home. Use it as a context manager, or call `stop` yourself."""

    def __init__(self, home: Path, *, report: Callable[[str], None] = print, stop_s: float = STOP_S) -> None:
        self._home = Home.at(home)
        self._report = report
        self._stop_s = stop_s
        self._services: dict[str, _Service] = {}
        self._changed = threading.Lock()  # held to spawn, to stop and to write services.json
        self._stopping = threading.Event()

    def start(self, specs: Sequence[ServiceSpec]) -> None:
        """Start these services (others may be running already); returns before they are ready.

        Raises Usage for a name that is taken, and while another process supervises services of this home."""
        other = services_supervisor(self._home)
        if other and other.pid != os.getpid():
            raise Usage(f"process {other.pid} already supervises the services of {self._home.root}; stop it first")
        for spec in specs:
            if spec.name in self._services:
                raise Usage(f"a service named {spec.name} is already supervised")
            service = _Service(spec, fresh_log(self._home.log(spec.name)))
            self._services[spec.name] = service
            self._report(f"{spec.name}: log {service.log}")
            self._spawn(service)
            service.thread = threading.Thread(target=self._tend, args=(service,), name=f"tend {spec.name}", daemon=True)
            service.thread.start()

    def pid(self, name: str) -> int | None:
        """The service's current process; None between two and after the last."""
        child = self._services[name].child
        return child.pid if child and child.exit_code is None else None

    def restarts(self, name: str) -> int:
        """How often it was started again."""
        return self._services[name].restarts

    def log(self, name: str) -> Path:
        return self._services[name].log

    def wait_ready(self, names: Collection[str] | None = None, timeout: float = READY_S) -> None:
        """Until these services (default: all) are ready; `timeout` in seconds, for all of them together.

        Raises Misconfigured when one ends with 78, Fatal when one is not ready in time; both with its last log
        lines."""
        deadline = time.monotonic() + timeout
        for name in self._services if names is None else names:
            service = self._services[name]
            while not self._is_ready(service):
                if service.refused:
                    raise Misconfigured(f"{name} refuses its configuration.\n{last_lines(service.log)}")
                if time.monotonic() > deadline:
                    raise Fatal(
                        f"{name} was not ready within {timeout:.0f} s (started again {service.restarts} times).\n"
                        f"{last_lines(service.log)}"
                    )
                time.sleep(POLL_S)

    def stop(self) -> None:
        """SIGTERM to all at once, SIGKILL to what is left after `stop_s` seconds; this supervisor is done then."""
        with self._changed:
            if self._stopping.is_set():
                return
            self._stopping.set()
        children = [service.child for service in self._services.values() if service.child]
        end_all(children, {}, self._stop_s)
        for service in self._services.values():
            if service.thread:
                service.thread.join()
        if self._services:
            self._home.services_file.unlink(missing_ok=True)

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _spawn(self, service: _Service) -> bool:
        """A new process for the service, unless we are stopping."""
        with self._changed:
            if self._stopping.is_set():
                return False
            service.started_at = time.monotonic()
            service.child = spawn(
                Command(service.spec.name, service.spec.argv, service.log, {**os.environ, **service.spec.env})
            )
            self._write()
            return True

    def _tend(self, service: _Service) -> None:
        """Wait for its process to end and start the next one, until we stop or it refuses its configuration."""
        pause_s = FIRST_PAUSE_S
        while True:
            assert service.child  # noqa: S101 - spawned before this thread began
            code = service.child.wait()
            if self._stopping.is_set():
                return
            if time.monotonic() - service.started_at >= STEADY_S:
                pause_s = FIRST_PAUSE_S
            if code == BAD_CONFIGURATION:
                service.refused = True
                self._written()
                self._report(f"{service.spec.name} refuses its configuration.\n{last_lines(service.log)}")
                return
            self._written()
            self._report(f"{service.spec.name} ended ({how_it_ended(code)}); starting it again in {pause_s:.1f} s")
            if self._stopping.wait(pause_s):
                return
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            service.restarts += 1
            if not self._spawn(service):
                return

    def _is_ready(self, service: _Service) -> bool:
        child = service.child
        if child is None or child.exit_code is not None:
            return False
        return service.spec.ready_url is None or answers_200(service.spec.ready_url)

    def _written(self) -> None:
        with self._changed:
            self._write()

    def _write(self) -> None:
        us = Identity.of(os.getpid())
        assert us  # noqa: S101 - we are running
        services = {name: service.state() for name, service in self._services.items()}
        write_json(self._home.services_file, {"supervisor": asdict(us), "services": services})


@dataclass(slots=True)
class _Service:
    spec: ServiceSpec
    log: Path
    child: Child | None = None
    thread: threading.Thread | None = None
    restarts: int = 0
    started_at: float = 0.0
    refused: bool = False

    def state(self) -> dict[str, Any]:
        identity = self.child.identity if self.child and self.child.exit_code is None else None
        return {
            "identity": asdict(identity) if identity else None,
            "ready_url": self.spec.ready_url,
            "log": str(self.log),
            "restarts": self.restarts,
        }


def services_of(home: Path) -> dict[str, ServiceState]:
    """The services that some live process supervises for this home, by name; empty when nobody does."""
    found = read_json(home / "services.json")
    if found is None or not Identity(**found["supervisor"]).alive():
        return {}
    return {name: _state(name, each) for name, each in found["services"].items()}


def answers_200(url: str) -> bool:
    """One GET, without proxies; anything but a 200 within `PROBE_S` is a no."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=PROBE_S)
    try:
        connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _state(name: str, each: Mapping[str, Any]) -> ServiceState:
    identity = Identity(**each["identity"]) if each["identity"] else None
    pid = identity.pid if identity and identity.alive() else None
    return ServiceState(name, pid, each["ready_url"], Path(each["log"]), each["restarts"])
