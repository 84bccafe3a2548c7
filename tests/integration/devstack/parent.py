"""A process that owns children, for tests that kill it: parent.py MODE HOME.

It prints one line of JSON once its children are up, then waits for the end of its input."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from devstack import processes
from devstack.stack import Stack
from devstack.supervisor import ServiceSpec, Supervisor

# Whoever runs the tests in the background has SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

SLEEPER = (sys.executable, "-c", "import time; time.sleep(600)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
)


def stack(home: Path) -> None:
    with Stack.start(home, report=say) as started:
        tell(
            kafka=started.addresses.kafka_bootstrap,
            database=started.addresses.database_url,
            pids=started.pids(),
            owner=started.owner_pid,
        )
        sys.stdin.read()


def services(home: Path) -> None:
    with Supervisor(home, report=say) as supervisor:
        supervisor.start([ServiceSpec("ingest", SLEEPER, {}), ServiceSpec("aggregator", SLEEPER, {})])
        supervisor.wait_ready()
        tell(pids={name: supervisor.pid(name) for name in ("ingest", "aggregator")})
        sys.stdin.read()


def guarded(home: Path) -> None:
    """As on a system without PR_SET_PDEATHSIG: one child that ends when asked, one that must be killed."""
    processes._current = processes._Spawner(guarded=True, guard_grace_s=0.3)
    home.mkdir()
    children = [
        processes.spawn(processes.Command("obedient", SLEEPER, home / "a.log", {}, orphan_signal=signal.SIGTERM)),
        processes.spawn(processes.Command("stubborn", STUBBORN, home / "b.log", {}, orphan_signal=signal.SIGTERM)),
    ]
    while "deaf" not in (home / "b.log").read_text():
        assert children[1].wait(0.02) is None
    tell(pids={child.name: child.pid for child in children})
    sys.stdin.read()


def say(text: str) -> None:
    print(text, file=sys.stderr)


def tell(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    {"stack": stack, "services": services, "guarded": guarded}[sys.argv[1]](Path(sys.argv[2]))
