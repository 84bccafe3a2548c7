"""The HTTP door behind its real server: what only a socket can do to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import psutil
import pytest

from services.ingest import http
from shared.runtime import http_protocol
from shared.runtime.http import HttpServer
from tests.support.hostile import GOOD
from tests.support.ingest import Taken, settings, small_catalogue
from tests.support.usage import NOWHERE

DEADLINE_S = 5.0


@dataclass
class Socket:
    """Speaks to the server byte by byte."""

    port: int
    key: str
    taken: Taken

    async def say(self, *pieces: bytes) -> bytes:
        """All that comes back until the server closes, or nothing more comes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        heard = b""
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            async with asyncio.timeout(DEADLINE_S):
                while not _whole(heard) and (more := await reader.read(65536)):
                    heard += more
        except (ConnectionResetError, BrokenPipeError):
            pass
        finally:
            writer.close()
        return heard

    def head(self, *lines: bytes, body: bytes = GOOD) -> bytes:
        return b"\r\n".join(
            [
                b"POST /v1/events HTTP/1.1",
                b"Host: ingest",
                b"Authorization: Bearer " + self.key.encode(),
                b"Content-Type: application/cloudevents+json",
                *lines,
                b"",
                body,
            ]
        )


def _whole(heard: bytes) -> bool:
    head, gap, body = heard.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(gap) and bool(lengths) and len(body) >= int(lengths[0])


def _status(heard: bytes) -> int:
    return int(heard.split(b" ", 2)[1])


@pytest.fixture
async def door() -> AsyncIterator[Socket]:
    cache, keys = small_catalogue()
    taken = Taken()
    server = HttpServer(
        http.app(http.Door(settings(NOWHERE), cache, taken, "ingest-test")), "127.0.0.1", 0, "HTTP_PORT"
    )
    await server.start()
    yield Socket(server.port, keys["first"], taken)
    await server.stop()


async def _still_open(door: Socket) -> None:
    assert _status(await door.say(door.head(b"Content-Length: %d" % len(GOOD)))) == 202


async def test_a_chunked_body_needs_no_length(door: Socket) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(GOOD[i : i + 7]), GOOD[i : i + 7]) for i in range(0, len(GOOD), 7))
    answer = await door.say(door.head(b"Transfer-Encoding: chunked", body=b""), chunks, b"0\r\n\r\n")
    assert _status(answer) == 202
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["accepted"] == 1


@pytest.mark.parametrize(
    "lines",
    [
        (b"Content-Length: 5", b"Content-Length: 500"),
        (b"Content-Length: -5",),
        (b"Content-Length: 0x10",),
        (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: gzip, chunked, identity",),
        (b"No colon here",),
        (b"Bad\x00name: 1",),
        (b"X: a\x00b",),
    ],
)
async def test_what_could_smuggle_a_second_call_is_refused_and_nothing_is_taken(
    door: Socket, lines: tuple[bytes, ...]
) -> None:
    answer = await door.say(door.head(*lines))
    assert answer == b"" or _status(answer) in (400, 413, 422), answer[:200]
    assert door.taken.events == []
    await _still_open(door)


@pytest.mark.parametrize(
    "noise",
    [
        b"",
        b"\x16\x03\x01\x02\x00\x01\x00",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00" * 1000,
        b"GET\r\n\r\n",
        b"POST /v1/events HTTP/9.9\r\n\r\n",
        b"POST http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_dropped(door: Socket, noise: bytes) -> None:
    answer = await asyncio.wait_for(_said(door, noise), DEADLINE_S)
    assert answer == b"" or _status(answer) in (400, 404, 405, 505), answer[:200]
    await _still_open(door)


async def _said(door: Socket, noise: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(noise)
    writer.write_eof()
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_endless_headers_do_not_fill_the_memory(door: Socket) -> None:
    process = psutil.Process()
    await _still_open(door)
    before = process.memory_info().rss
    megabyte = b"X-Fill: " + b"x" * 1_000_000 + b"\r\n"
    answer = await door.say(b"POST /v1/events HTTP/1.1\r\nHost: x\r\n", *[megabyte] * 100)
    grown = process.memory_info().rss - before
    assert answer == b"" or _status(answer) == 431, answer[:100]
    assert grown < 32 * 1024 * 1024, f"{grown / 2**20:.0f} MiB of headers are held"
    await _still_open(door)


async def test_one_header_without_an_end_does_not_fill_the_memory(door: Socket) -> None:
    process = psutil.Process()
    await _still_open(door)
    before = process.memory_info().rss
    answer = await door.say(b"POST /v1/events HTTP/1.1\r\nX-Fill: ", *[b"x" * 1_000_000] * 100)
    grown = process.memory_info().rss - before
    assert answer == b"" or _status(answer) in (400, 431), answer[:100]
    assert grown < 64 * 1024 * 1024, f"{grown / 2**20:.0f} MiB of one header are held"
    await _still_open(door)


async def test_a_head_that_does_not_come_is_not_waited_for(door: Socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_DEADLINE_S", 0.1)
    for begun in (b"", b"POST /v1/events HTTP/1.1\r\nHost: x\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(begun)
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.read() == b""
        writer.close()
    await _still_open(door)


async def test_a_client_that_hangs_up_in_the_middle_is_no_trouble(door: Socket) -> None:
    for sent in (10, 60, 150, 260):
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(door.head(b"Content-Length: 5000")[:sent])
        await writer.drain()
        writer.close()
    await _still_open(door)
    assert len(door.taken.events) == 1


async def test_many_clients_that_only_begin_hold_nobody_up(door: Socket) -> None:
    begun = [await asyncio.open_connection("127.0.0.1", door.port) for _ in range(200)]
    for _, writer in begun:
        writer.write(door.head(b"Content-Length: 5000000", body=b"["))
    await asyncio.wait_for(_still_open(door), DEADLINE_S)
    for _, writer in begun:
        writer.close()


async def test_calls_in_a_row_on_one_connection_are_answered_in_order(door: Socket) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    call = door.head(b"Content-Length: %d" % len(GOOD))
    bad = door.head(b"Content-Length: 1", body=b"{")
    writer.write(call + bad + call)
    heard = b""
    async with asyncio.timeout(DEADLINE_S):
        while heard.count(b"HTTP/1.1 ") < 3 or not _whole(heard[heard.rindex(b"HTTP/1.1 ") :]):
            heard += await reader.read(65536)
    writer.close()
    assert [int(part[:3]) for part in heard.split(b"HTTP/1.1 ")[1:]] == [202, 400, 202]
