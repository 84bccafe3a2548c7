"""SIGKILL processes of the stack exactly while a batch or request of their own is open.

A failpoint holds the process at a named line; then it is killed, and the supervisor starts it again.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable
from dataclasses import dataclass, field

from cli.stack.running import Running
from devstack.supervisor import answers_200, services_of
from shared.domain.errors import Fatal
from shared.runtime import failpoints

# While events are sent, in an order that the seed shuffles: (service, failpoint, door that makes it busy).
WHILE_SENDING = (
    ("ingest", "ingest.http.before_ack", "http"),
    ("ingest", "ingest.door.before_commit", "kafka"),
    ("aggregator", "aggregator.batch.after_offsets", "http"),
    ("aggregator", "aggregator.batch.before_commit", "kafka"),
    ("aggregator", "aggregator.batch.after_commit", "http"),
)
WHILE_CLOSING = (
    ("invoicer", "outbox.relay.before_mark"),
    ("payments", "payments.intent.after_call"),
)
WHILE_COLLECTING = (
    ("receiver", "receiver.before_ack"),
    ("payments", "payments.apply.before_commit"),
)
CLOSE_POINT = "invoicer.finalize.before_commit"
READY_S = 30.0


@dataclass
class Killer:
    """Counts its kills; `killed` says which process died where."""

    running: Running
    killed: list[tuple[str, str]] = field(default_factory=list)

    async def arm(self, service: str, point: str) -> int:
        """Arm the point for the service's present process, once that is ready; returns its pid."""
        pid = await self._ready(service)
        failpoints.arm(self.running.plan.failpoints, point, pid)
        return pid

    async def kill(self, service: str, point: str, pid: int) -> None:
        """Wait until the process is held at the armed point, kill it there, wait for its successor.

        Raises Fatal when it never gets there.
        """
        try:
            await failpoints.held(self.running.plan.failpoints, point, deadline_s=READY_S)
        except TimeoutError:
            raise Fatal(f"{service} did not reach {point} within {READY_S:g} s") from None
        self.end(service, point, pid)
        await self._ready(service, after=pid)

    async def kill_during(self, service: str, point: str, work: Awaitable[object]) -> None:
        """Kill while `work` keeps the service busy; returns when the successor is ready and the work is done."""
        pid = await self.arm(service, point)
        await asyncio.gather(self.kill(service, point, pid), work)

    def end(self, name: str, point: str, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self.killed.append((name, point))

    async def _ready(self, service: str, after: int | None = None) -> int:
        async with asyncio.timeout(READY_S):
            while True:
                state = services_of(self.running.plan.home).get(service)
                if (
                    state is not None
                    and state.pid not in (None, after)
                    and state.ready_url is not None
                    and await asyncio.to_thread(answers_200, state.ready_url)
                ):
                    assert state.pid is not None
                    return state.pid
                await asyncio.sleep(0.1)
