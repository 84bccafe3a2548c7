"""Start children that cannot outlive us, and end them.

Linux sends a child its orphan signal when the *thread* that started it ends (PR_SET_PDEATHSIG, prctl(2)), so
every child is started by one thread that lives as long as the process. Elsewhere `guard.py` watches a pipe.
Each child leads its own session: a Ctrl-C in the terminal reaches us alone, and we end the children in order.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from devstack.identity import Identity
from shared.domain.errors import Fatal

PYTHON = (sys.executable, "-I", "-S")  # isolated, without site-packages: about 15 ms to start
LAUNCH = Path(__file__).with_name("launch.py")
GUARD = Path(__file__).with_name("guard.py")
GUARD_GRACE_S = 10.0  # orphaned servers close their files meanwhile
TAIL_LINES = 20


class ChildEnded(Fatal):
    """A child ended although it was needed; the text holds its last log lines and the log's path."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to start. `env` is the whole environment; `account` the OS account (None: ours); `orphan_signal` is
    what the child gets when we are gone: SIGKILL unless it must end children of its own."""

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str]
    cwd: Path | None = None
    account: str | None = None
    orphan_signal: signal.Signals = signal.SIGKILL


class Child:
    """A running child of this process."""

    def __init__(self, command: Command, process: subprocess.Popen[bytes], identity: Identity | None) -> None:
        self.command = command
        self.identity = identity
        self._process = process
        self._reaped = threading.Lock()

    @property
    def name(self) -> str:
        return self.command.name

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number when a signal ended it (as in `subprocess`)."""
        code = self._process.poll()
        if code is not None and self._reaped.acquire(blocking=False):  # once: the pid may soon mean another child
            _spawner().reaped(self.pid)
        return code

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Its exit code, or None when it still runs after `timeout_s`."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        return self.exit_code

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)  # does nothing once it has been reaped

    def kill(self) -> None:
        """SIGKILL to its whole process group, then reap it."""
        if self.exit_code is None:
            with suppress(ProcessLookupError):  # another thread has just reaped it
                os.killpg(self.pid, signal.SIGKILL)
            self.wait()

    def ended(self) -> ChildEnded:
        """The error that tells why it ended."""
        return ChildEnded(f"{self.name} ended ({how_it_ended(self.exit_code)}).\n{last_lines(self.command.log)}")


def spawn(command: Command) -> Child:
    """Start `command`, its output appended to its log. Raises nothing for a program that cannot be started: the
    child ends with 127 and says why in its log."""
    return _spawner().spawn(command)


def run(command: Command, timeout_s: float) -> None:
    """Run `command` to its end. Raises ChildEnded when it fails or takes longer than `timeout_s`."""
    child = spawn(command)
    try:
        code = child.wait(timeout_s)
    finally:
        child.kill()
    if code is None:
        raise ChildEnded(f"{child.name} did not end within {timeout_s:.0f} s.\n{last_lines(command.log)}")
    if code != 0:
        raise child.ended()


def end_all(children: Sequence[Child], first: Mapping[str, signal.Signals], grace_s: float) -> None:
    """Ask all children to end (SIGTERM, or the signal `first` has for the name); after `grace_s` kill the rest."""
    for child in children:
        child.send(first.get(child.name, signal.SIGTERM))
    deadline = time.monotonic() + grace_s
    for child in children:
        if child.wait(max(0.0, deadline - time.monotonic())) is None:
            child.kill()


def end_leftover(identity: Identity, first: signal.Signals, grace_s: float) -> None:
    """End a process that a killed parent left behind; it is not our child, so look instead of waiting for it."""
    for number, patience_s in ((first, grace_s), (signal.SIGKILL, 5.0)):
        if not identity.alive():
            return
        os.kill(identity.pid, number)
        deadline = time.monotonic() + patience_s
        while identity.alive() and time.monotonic() < deadline:
            time.sleep(0.02)
    if identity.alive():
        raise Fatal(f"process {identity.pid} of an earlier start does not end; end it (kill -9 {identity.pid})")


def fresh_log(path: Path) -> Path:
    """Keep the log of the last start as `<name>.log.1` and begin a new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.replace(path.with_name(path.name + ".1"))
    return path


def last_lines(log: Path, count: int = TAIL_LINES) -> str:
    """The end of a log for an error message, and where the rest is."""
    try:
        lines = log.read_text(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        lines = []
    return "\n".join([*(f"    {line}" for line in lines or ["(its log is empty)"]), f"Its log: {log}"])


def how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


class _Spawner:
    """The one thread that starts children, and off Linux the guard beside it."""

    def __init__(self, guarded: bool, guard_grace_s: float = GUARD_GRACE_S) -> None:
        self.owner = os.getpid()
        self._guarded = guarded
        self._guard_grace_s = guard_grace_s
        self._guard: subprocess.Popen[bytes] | None = None
        self._requests: SimpleQueue[tuple[Command, Future[Child]]] = SimpleQueue()
        threading.Thread(target=self._serve, name="spawner", daemon=True).start()

    def spawn(self, command: Command) -> Child:
        answer: Future[Child] = Future()
        self._requests.put((command, answer))
        return answer.result()

    def reaped(self, pid: int) -> None:
        """The pid may mean another process from now on: the guard must forget it."""
        if self._guard is not None:
            os.write(self._pipe(self._guard), f"-{pid}\n".encode())

    def _serve(self) -> None:
        while True:
            command, answer = self._requests.get()
            try:
                answer.set_result(self._start(command))
            except BaseException as error:  # noqa: BLE001 - handed to the caller, who waits for an answer
                answer.set_exception(error)

    def _start(self, command: Command) -> Child:
        guard = self._pipe(self._running_guard()) if self._guarded else None
        life = (str(os.getpid()), str(int(command.orphan_signal)))
        options = (command.account or "-", "-" if guard is None else str(guard))
        with command.log.open("ab") as log:
            process = subprocess.Popen(
                [*PYTHON, str(LAUNCH), *life, *options, *command.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(command.env),
                cwd=command.cwd,
                pass_fds=() if guard is None else (guard,),
                start_new_session=True,
            )
        return Child(command, process, Identity.of(process.pid))

    def _running_guard(self) -> subprocess.Popen[bytes]:
        if self._guard is None:
            self._guard = subprocess.Popen(
                [*PYTHON, str(GUARD), str(self._guard_grace_s)],
                stdin=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        return self._guard

    @staticmethod
    def _pipe(guard: subprocess.Popen[bytes]) -> int:
        assert guard.stdin is not None  # noqa: S101 - it was opened with a pipe
        return guard.stdin.fileno()


_lock = threading.Lock()
_current: _Spawner | None = None


def _spawner() -> _Spawner:
    """This process's spawner; a fork of a process with one has none, since threads do not survive a fork."""
    global _current  # noqa: PLW0603
    with _lock:
        if _current is None or _current.owner != os.getpid():
            _current = _Spawner(guarded=sys.platform != "linux")
        return _current
