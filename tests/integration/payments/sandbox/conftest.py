"""A real sandbox process, the real Razorpay SDK, and a small endpoint that keeps what webhooks bring."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import razorpay
import requests

KEY_ID = "rzp_test_khatasandbox1"
KEY_SECRET = "a-secret-of-the-test"
WEBHOOK_SECRET = "a-webhook-secret-of-the-test"


def until(condition: Callable[[], Any], what: str, deadline_s: float = 8.0) -> Any:
    """The first true value of `condition`; fails with `what` after the deadline."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    pytest.fail(f"not within {deadline_s} s: {what}")


class SandboxProcess:
    """`python -m services.payments.sandbox.app` on a free port, with a ledger of its own."""

    def __init__(self, directory: Path, **settings: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            "SANDBOX_HTTP_PORT": str(self.port),
            "SANDBOX_KEY_SECRET": KEY_SECRET,
            "SANDBOX_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "SANDBOX_DATA": str(directory / "sandbox.sqlite3"),
            "SANDBOX_SPREAD_SECONDS": "0.02",
            "SANDBOX_LADDER_SCALE": "0.02",
            **{f"SANDBOX_{name.upper()}": value for name, value in settings.items()},
        }
        self.log = directory / "sandbox.log"
        self.http = requests.Session()
        self.http.trust_env = False
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as out:
            command = [sys.executable, "-m", "services.payments.sandbox.app"]
            self.process = subprocess.Popen(command, env=self.environment, stdout=out, stderr=subprocess.STDOUT)
        until(self.ready, f"ready; {self.log.read_text()}")

    def ready(self) -> bool:
        try:
            return self.http.get(f"{self.url}/readyz", timeout=1).status_code == 200
        except requests.ConnectionError:
            return False

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.process.wait(timeout=8)

    def close(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.end(signal.SIGKILL)

    def post(self, path: str, document: dict[str, Any]) -> dict[str, Any]:
        answer = self.http.post(f"{self.url}{path}", json=document, timeout=5)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def pay(self, link: dict[str, Any], vpa: str = "success@razorpay") -> dict[str, Any]:
        return self.post(f"/l/{link['id']}/pay", {"vpa": vpa})

    def ledger(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"{self.url}/sandbox/ledger", timeout=5).json()
        return found

    def deliveries(self, after: int = 0) -> list[dict[str, Any]]:
        answer = self.http.get(f"{self.url}/sandbox/deliveries", params={"after": after}, timeout=5)
        found: list[dict[str, Any]] = answer.json()["deliveries"]
        return found

    def calm(self) -> None:
        """Back to no trouble at all, and no webhook."""
        self.http.delete(f"{self.url}/sandbox/faults", timeout=5)
        calm = {
            "shuffle_seconds": 0,
            "duplicate_copies": 0,
            "drop_fraction": 0,
            "drop_events": [],
            "auto_capture": True,
        }
        self.post("/sandbox/knobs", calm)
        self.post("/sandbox/webhook", {"url": "", "secret": WEBHOOK_SECRET, "enabled": True})


class Client(razorpay.Client):  # type: ignore[misc] # the SDK has no types
    """The SDK's client; its session ignores proxies of the environment."""

    def __init__(self, url: str, secret: str = KEY_SECRET, key_id: str = KEY_ID) -> None:
        session = requests.Session()
        session.trust_env = False
        super().__init__(auth=(key_id, secret), base_url=url, session=session)


@dataclass
class Received:
    """One delivery as it came over the wire."""

    headers: dict[str, str]
    body: bytes
    answered: int

    @property
    def event_id(self) -> str:
        return self.headers["X-Razorpay-Event-Id"]

    @property
    def signature(self) -> str:
        return self.headers["X-Razorpay-Signature"]


@dataclass
class Receiver:
    """A webhook endpoint. `answers` are used up first; then it says 200."""

    port: int = 0
    answers: list[int] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks/razorpay"

    def take(self, headers: dict[str, str], body: bytes) -> int:
        with self.lock:
            answer = self.answers.pop(0) if self.answers else 200
            self.received.append(Received(headers, body, answer))
            return answer

    def wait_for(self, count: int) -> list[Received]:
        until(lambda: len(self.received) >= count, f"{count} deliveries, came: {len(self.received)}")
        return list(self.received)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if len(body) < int(self.headers["Content-Length"]):
                return  # the sender was killed in the middle of it
            self.send_response(kept.take(dict(self.headers.items()), body))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # with the default of 5 a burst of deliveries waits for the kernel's next try

    server = Server(("127.0.0.1", 0), Handler)
    kept.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield kept
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def shared_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    process = SandboxProcess(tmp_path_factory.mktemp("sandbox"))
    yield process
    process.close()


@pytest.fixture
def sandbox(shared_sandbox: SandboxProcess) -> Iterator[SandboxProcess]:
    yield shared_sandbox
    shared_sandbox.calm()


@pytest.fixture
def own_sandbox(tmp_path: Path, receiver: Receiver) -> Iterator[SandboxProcess]:
    """A sandbox that a test may kill, with the receiver as its webhook."""
    process = SandboxProcess(tmp_path, webhook_url=receiver.url)
    yield process
    process.close()


@pytest.fixture
def hooked(sandbox: SandboxProcess, receiver: Receiver) -> SandboxProcess:
    """The shared sandbox with the receiver as its webhook."""
    sandbox.post("/sandbox/webhook", {"url": receiver.url})
    return sandbox


@pytest.fixture
def client(sandbox: SandboxProcess) -> Iterator[Client]:
    made = Client(sandbox.url)
    yield made
    made.session.close()
