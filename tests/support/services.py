"""Real service processes of one test, on free ports, ended with it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from devstack.supervisor import ServiceSpec, Supervisor
from shared.catalogue.keys import PepperSettings

PEPPERS = "test1:" + "5a" * 32


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def peppers() -> dict[str, bytes]:
    return PepperSettings(key_peppers=PEPPERS).peppers


@dataclass(frozen=True)
class Services:
    """Running services by name; `url` of those with an HTTP door."""

    supervisor: Supervisor
    ports: Mapping[str, int]

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"


@contextmanager
def services(home: Path, env: Mapping[str, str], *names: str) -> Iterator[Services]:
    """Start `khata run <name>` for each and wait until all are ready."""
    ports = {name: free_port() for name in names}
    specs = []
    for name in names:
        metrics = free_port()
        own = {
            "KEY_PEPPERS": PEPPERS,
            "KHATA_INSTANCE": "test-1",
            "METRICS_PORT": str(metrics),
            "HTTP_PORT": str(ports[name]),
            **env,
        }
        argv = (sys.executable, "-m", "cli", "run", name)
        specs.append(ServiceSpec(name, argv, own, f"http://127.0.0.1:{metrics}/readyz"))
    with Supervisor(home) as supervisor:
        supervisor.start(specs)
        supervisor.wait_ready(timeout=30)
        yield Services(supervisor, ports)
