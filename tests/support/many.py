"""Very many producers on connections of their own, cheap enough to leave the processors to what is measured."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from shared.runtime.pause import pause
from tests.support.ingest import MANY
from tests.support.journal import Journal

SIZES = (1, 1, 1, 1, 1, 1, 10, 10, 10, 100)  # events of a call, drawn from these
PADDINGS = (0, 0, 0, 200, 2_000)  # bytes of an event, drawn from these
ANSWER_S = 30.0
SLOW_S = 0.5


def room_for(connections: int) -> None:
    """File descriptors for both sides: what is started from now on inherits the limit. Raises ValueError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, connections + 1_000), hard))


@dataclass
class Many:
    """`open_now` and `open_most` count connections; `seconds` has the time of every call that was accepted.

    `late_s` is by how much the sender's own loop was late at worst: times are no better than that.
    """

    journals: Sequence[Journal]
    pause_s: float
    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int | None] = field(default_factory=Counter)
    open_now: int = 0
    open_most: int = 0
    reconnects: int = 0
    late_s: float = 0.0
    slow_at: Counter[int] = field(default_factory=Counter)  # calls above SLOW_S by the second they began in

    async def run(self, connections: int, seconds: float) -> None:
        """Open them over a few seconds, send for so long, and end when every call in hand is accepted."""
        stop = asyncio.Event()
        self._began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_own_loop(stop))
            for number in range(connections):
                tasks.create_task(self._producer(number, stop))
                if number % 20 == 19:
                    await asyncio.sleep(0.02)  # as a fleet starts: not all in one instant
            await asyncio.sleep(seconds)
            stop.set()

    async def _watch_own_loop(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            before = time.perf_counter()
            await asyncio.sleep(0.01)
            self.late_s = max(self.late_s, time.perf_counter() - before - 0.01)

    async def _producer(self, number: int, stop: asyncio.Event) -> None:
        dice, journal = random.Random(number), self.journals[number % len(self.journals)]
        connection = _Connection(journal)
        while not await pause(stop, dice.uniform(0, 2 * self.pause_s)):
            journal.padding_bytes = dice.choice(PADDINGS)
            batch = journal.batch(dice.choice(SIZES))
            body = json.dumps(journal.documents(batch)).encode()
            while (status := await self._attempt(connection, body)) != 202:
                await asyncio.sleep(dice.uniform(0.1, 0.5))
            assert status == 202
            journal.answered |= batch
        connection.close()

    async def _attempt(self, connection: _Connection, body: bytes) -> int | None:
        if not connection.is_open:
            self.reconnects += 1
            self.open_now += 1
            self.open_most = max(self.open_most, self.open_now)
        began = time.perf_counter()
        try:
            async with asyncio.timeout(ANSWER_S):
                status: int | None = await connection.post(body)
        except (OSError, EOFError, TimeoutError):
            connection.close()
            status = None
        if status == 202:
            self.seconds.append(took := time.perf_counter() - began)
            if took > SLOW_S:
                self.slow_at[int(began - self._began)] += 1
        if not connection.is_open:
            self.open_now -= 1
        self.statuses[status] += 1
        return status

    def percentile_ms(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class _Connection:
    """HTTP/1.1 with keep-alive, as little of it as the answers of ingest need."""

    def __init__(self, journal: Journal) -> None:
        parts = urlsplit(journal.url)
        self._host, self._port = parts.hostname, parts.port
        self._head = (
            f"POST /v1/events HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {journal.key}\r\n"
            f"Content-Type: {MANY}\r\nContent-Length: "
        )
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def is_open(self) -> bool:
        return self._streams is not None

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def post(self, body: bytes) -> int:
        """The status. Raises OSError and EOFError: no answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(f"{self._head}{len(body)}\r\n\r\n".encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head[9:12])
        length = next(int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:"))
        await reader.readexactly(length)
        if "\r\nconnection: close" in head:
            self.close()
        return status
