"""One way for every process to start, run, drain and stop.

    1  settings and logging (78 when wrong)
    2  ops port answers /livez; /readyz is 503 until the service says it is ready
    3  `run(stop)` works until `stop` is set
    4  SIGTERM or Ctrl-C: /readyz turns 503, `stop` is set, `run` drains within 25 s
    5  a second signal, or the deadline, ends the process at once; nothing accepted is lost by that

Exit codes: 0 clean stop, 1 failure, 2 usage, 69 a dependency is away, 78 configuration
(also a schema older than the code, or a missing topic).
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from shared.domain.errors import Fatal, KhataError, Misconfigured, Retryable, Usage
from shared.observability import health as health_module
from shared.observability import logging
from shared.observability.health import Health
from shared.runtime.http import HttpServer
from shared.runtime.settings import ProcessSettings, load

DRAIN_DEADLINE_S = 25.0  # Kubernetes gives 30

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_DEPENDENCY = 69
EXIT_CONFIGURATION = 78

log = logging.get(__name__)


@dataclass
class Process:
    """What a service gets to run with."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    health: Health = field(default_factory=Health)


def exit_code(error: BaseException) -> int:
    """Exit code of an error raised on purpose; anything else is a failure (1)."""
    match error:
        case Usage():
            return EXIT_USAGE
        case Misconfigured():
            return EXIT_CONFIGURATION
        case Retryable():
            return EXIT_DEPENDENCY
        case _:
            return EXIT_FAILURE


P = TypeVar("P", bound=ProcessSettings)


def main(name: str, settings: type[P], run: Callable[[P, Process], Awaitable[None]]) -> int:
    """Run one service to its end and return its exit code. `run` may use TaskGroups freely."""
    try:
        loaded = load(settings)
    except Misconfigured as error:
        print(f"khata {name}: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    logging.configure(name, loaded.log_level, loaded.log_format)
    # Modules live as long as the process; looking through them again and again for garbage stopped it for 40 ms.
    gc.freeze()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_live(name, loaded, lambda process: run(loaded, process)))
    except KhataError as error:
        log.error("process.failed", error=str(error), kind=type(error).__name__)
        print(f"khata {name}: {error}", file=sys.stderr)
        return exit_code(error)
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return None
    return uvloop.new_event_loop


async def _live(name: str, settings: ProcessSettings, run: Callable[[Process], Awaitable[None]]) -> None:
    process = Process()
    _on_signals(process)
    ops = HttpServer(health_module.app(process.health), settings.host, settings.metrics_port, "METRICS_PORT")
    await ops.start()
    log.info("process.started", metrics_port=ops.port, pid=os.getpid())
    work = asyncio.ensure_future(run(process))
    stopping = asyncio.ensure_future(process.stop.wait())
    try:
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            process.health.draining = True
            log.info("process.draining", deadline_s=DRAIN_DEADLINE_S)
            await asyncio.wait({work}, timeout=DRAIN_DEADLINE_S)
        if not work.done():
            log.error("process.drain_deadline", deadline_s=DRAIN_DEADLINE_S)
            os._exit(EXIT_FAILURE)  # safe: offsets move only with their effect
        await _unwrapped(work)
        if not process.stop.is_set():
            raise Fatal(f"{name} ended by itself; see its log")
    finally:
        stopping.cancel()
        await ops.stop()
    log.info("process.stopped")


async def _unwrapped(work: asyncio.Future[None]) -> None:
    """Of a group of errors raised together, the one that decides the exit code: the first raised on purpose."""
    try:
        await work
    except BaseExceptionGroup as group:
        known = group.subgroup(KhataError)
        if known is None:
            raise
        raise _leaf(known) from group


def _leaf(error: BaseException) -> BaseException:
    return _leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _on_signals(process: Process) -> None:
    def stop() -> None:
        if process.stop.is_set():
            os._exit(EXIT_FAILURE)  # the second signal: at once
        process.stop.set()

    loop = asyncio.get_running_loop()
    for wanted in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(wanted, stop)
