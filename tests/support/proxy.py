"""A TCP proxy in this process that can stop in the middle of what a client sends, as if the client froze there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

CHUNK = 1 << 20


@dataclass
class Proxy:
    """Passes everything on until it is told to hold."""

    host: str
    port: int
    held: asyncio.Event = field(default_factory=asyncio.Event)
    _marks: Sequence[bytes] = ()
    _go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def hold(self, *marks: bytes) -> None:
        """The next message of a client with one of the marks goes through but for its end; `held` tells when."""
        self._marks = marks
        self.held.clear()
        self._go_on.clear()

    def go_on(self) -> None:
        """What was held is sent too."""
        self._marks = ()
        self._go_on.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onwards: asyncio.StreamWriter | None = None
        with suppress(OSError):
            there, onwards = await asyncio.open_connection(self.host, self.port, limit=CHUNK)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pass_on(there, writer))
                await self._pass_on_or_hold(reader, onwards)
        for each in (writer, onwards):
            if each is not None:
                each.close()
                with suppress(OSError):
                    await each.wait_closed()

    async def _pass_on_or_hold(self, reader: asyncio.StreamReader, onwards: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK):
                if any(mark in chunk for mark in self._marks):
                    onwards.write(chunk[: len(chunk) // 2])
                    chunk = chunk[len(chunk) // 2 :]
                    self._marks = ()
                    self.held.set()
                    await self._go_on.wait()
                onwards.write(chunk)
                await onwards.drain()
        onwards.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before the server of `url`, and the URL that leads through it. Its clients must be gone at the end."""
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    proxy = Proxy(parts.hostname, parts.port)
    running: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.add(asyncio.create_task(proxy.serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=CHUNK)
    port = server.sockets[0].getsockname()[1]
    credentials = parts.netloc.rpartition("@")[0]
    try:
        yield proxy, urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{port}"))
    finally:
        proxy.go_on()
        server.close()
        await asyncio.wait_for(asyncio.gather(*running), 10)
