"""Services as small real processes: restarted, refused, stopped."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devstack.home import Home
from devstack.supervisor import ServiceSpec, Supervisor, services_of
from shared.domain.errors import Fatal, Misconfigured, Usage

from .conftest import Parent, assert_all_gone, wait_until

SERVER = """
import http.server, os, signal, sys
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == os.environ["READY_PATH"] else 503)
        self.end_headers()
signal.signal(signal.SIGTERM, lambda *_: (print("drained", flush=True), sys.exit(0)))
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Ready).serve_forever()
"""
SLEEP = "import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"


def python(name: str, code: str, ready_url: str | None = None, **env: str) -> ServiceSpec:
    return ServiceSpec(name, (sys.executable, "-S", "-c", code), env, ready_url)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(tmp_path / "home", report=print, stop_s=1) as supervisor:
        yield supervisor


@pytest.fixture
def web(tmp_path: Path) -> ServiceSpec:
    port = Home.at(tmp_path / "ports").ports(("web",))["web"]
    return python("web", SERVER, f"http://127.0.0.1:{port}/readyz", PORT=str(port), READY_PATH="/readyz")


def test_a_killed_service_is_started_again_and_others_can_find_it(
    supervisor: Supervisor, web: ServiceSpec, tmp_path: Path
) -> None:
    supervisor.start([web])
    supervisor.wait_ready(timeout=10)
    first = supervisor.pid("web")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: supervisor.pid("web") not in (None, first), "another process")
    supervisor.wait_ready(["web"], timeout=10)

    state = services_of(tmp_path / "home")["web"]
    assert (state.pid, state.restarts) == (supervisor.pid("web"), 1)
    assert (state.ready_url, state.log) == (web.ready_url, supervisor.log("web"))
    assert supervisor.restarts("web") == 1

    log = supervisor.log("web")
    supervisor.stop()
    assert "drained" in log.read_text()
    assert services_of(tmp_path / "home") == {}


def test_a_refused_configuration_is_not_tried_again(supervisor: Supervisor) -> None:
    code = "import sys; print('KAFKA_BOOTSTRAP is missing'); sys.exit(78)"
    supervisor.start([python("picky", code, "http://127.0.0.1:1/readyz")])
    with pytest.raises(Misconfigured, match="KAFKA_BOOTSTRAP is missing") as caught:
        supervisor.wait_ready(timeout=10)
    assert str(supervisor.log("picky")) in str(caught.value)
    assert supervisor.restarts("picky") == 0
    assert supervisor.pid("picky") is None


def test_a_service_that_keeps_ending_is_started_with_growing_pauses(tmp_path: Path) -> None:
    said: list[str] = []
    with Supervisor(tmp_path / "home", report=said.append) as supervisor:
        supervisor.start([python("weak", "raise SystemExit(3)")])
        wait_until(lambda: supervisor.restarts("weak") >= 3, "three restarts")
    pauses = [line.rpartition(" in ")[2] for line in said if "exit code 3" in line]
    assert pauses[:3] == ["0.1 s", "0.2 s", "0.4 s"]


def test_a_service_that_is_not_ready_in_time_shows_its_log(supervisor: Supervisor, web: ServiceSpec) -> None:
    env = {**web.env, "READY_PATH": "/never"}
    supervisor.start([ServiceSpec("slow", web.argv, env, web.ready_url)])
    with pytest.raises(Fatal, match="not ready within"):
        supervisor.wait_ready(timeout=0.5)


def test_a_service_deaf_to_sigterm_is_killed(supervisor: Supervisor) -> None:
    supervisor.start([python("deaf", DEAF)])
    pid = supervisor.pid("deaf")
    wait_until(lambda: "deaf" in supervisor.log("deaf").read_text(), "it ignores SIGTERM by now")
    supervisor.stop()
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_name_is_given_once_and_a_home_has_one_supervisor(
    supervisor: Supervisor, tmp_path: Path, parents: Callable[..., Parent]
) -> None:
    supervisor.start([python("one", SLEEP)])
    with pytest.raises(Usage, match="one"):
        supervisor.start([python("one", SLEEP)])

    other = parents("services", tmp_path / "other")
    other.ready()
    with Supervisor(tmp_path / "other") as second, pytest.raises(Usage, match=str(other.process.pid)):
        second.start([python("two", SLEEP)])


@pytest.mark.parametrize("mode", ["services", "guarded"])
def test_a_killed_supervisor_leaves_no_service(tmp_path: Path, parents: Callable[..., Parent], mode: str) -> None:
    parent = parents(mode, tmp_path / "home")
    parent.ready()
    family = parent.family()
    assert len(family) >= 2
    parent.process.kill()
    assert_all_gone(family)
