"""Content-Encoding: what is inflated, and what is refused before it can cost much."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from typing import Any

import cramjam
import pytest

from services.ingest import http
from services.ingest.http.body import MAX_BODY_BYTES, Room
from tests.support.ingest import MANY, HttpDoor, Taken, event


def zstd(data: bytes) -> bytes:
    return bytes(cramjam.zstd.compress(data))


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("zstd", zstd),
        ("identity", bytes),
        ("", bytes),
    ],
)
async def test_a_compressed_batch_is_read(door: HttpDoor, taken: Taken, coding: str, packed: Any) -> None:
    content = packed(json.dumps([event(str(n)) for n in range(50)]).encode())
    answer = await door.post(content, media_type=MANY, headers={"Content-Encoding": coding})
    assert answer.status_code == 202, answer.text
    assert len(taken.events) == 50


async def test_what_was_compressed_in_several_pieces_is_one_body(door: HttpDoor, taken: Taken) -> None:
    text = json.dumps([event("1")]).encode()
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    for coding, content in (
        ("gzip", gzip.compress(text[:20], mtime=0) + gzip.compress(text[20:], mtime=0)),
        ("zstd", zstd(text[:20]) + skippable + zstd(text[20:])),
    ):
        answer = await door.post(content, media_type=MANY, headers={"Content-Encoding": coding})
        assert answer.status_code == 202, (coding, answer.text)
    assert len(taken.events) == 2


NOISE = random.Random(5).randbytes(400)


@pytest.mark.parametrize(
    ("coding", "content"),
    [
        ("gzip", b""),
        ("gzip", b"[]"),
        ("gzip", gzip.compress(b"[]", mtime=0)[:-1]),
        ("gzip", gzip.compress(b"[]", mtime=0)[:-8] + b"\x00" * 8),
        ("gzip", gzip.compress(b"[]", mtime=0) + b"rest"),
        ("gzip", gzip.compress(b"", mtime=0) * 65),
        ("gzip", zlib.compress(b"[]")),
        ("gzip", zstd(b"[]")),
        ("zstd", b""),
        ("zstd", b"[]"),
        ("zstd", NOISE),
        ("zstd", zstd(b"[]")[:-1]),
        ("zstd", zstd(b"[]") + b"rest"),
        ("zstd", zstd(b"[]")[:4] + NOISE),
        ("zstd", gzip.compress(b"[]", mtime=0)),
        ("zstd", b"\x28\xb5\x2f\xfd\x00\x70" + b"\x01\x00\x00"),  # a window of 16 MB
        ("zstd", b"\x28\xb5\x2f\xfd\x00\xf8" + b"\x01\x00\x00"),  # and of 2 TB
        ("zstd", b"\x28\xb5\x2f\xfd\x01\x00\x07" + b"\x01\x00\x00"),  # a dictionary
        ("zstd", b"\x28\xb5\x2f\xfd\x00\x00" + b"\x00\x00\x00" * 10_001 + b"\x01\x00\x00"),
        ("zstd", b"\x50\x2a\x4d\x18\x00\x00\x00\x00" * 10_001),
        ("zstd", b"\x28\xb5\x2f\xfd\x00\x00" + b"\x07\x00\x00"),  # a reserved kind of block
    ],
)
async def test_a_body_that_is_not_what_its_encoding_says_is_malformed(
    door: HttpDoor, coding: str, content: bytes
) -> None:
    answer = await door.post(content, media_type=MANY, headers={"Content-Encoding": coding})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed"), answer.text


def _zstd_raw(content: bytes, *, descriptor: bytes = b"\x00\x38", pieces: int = 1) -> bytes:
    """A frame of raw blocks (RFC 8878 section 3.1.1); `descriptor` with the window."""
    size = -(-len(content) // pieces)
    parts = [content[at : at + size] for at in range(0, size * pieces, size)]
    blocks = [
        (len(part) << 3 | (index == len(parts) - 1)).to_bytes(3, "little") + part for index, part in enumerate(parts)
    ]
    return b"\x28\xb5\x2f\xfd" + descriptor + b"".join(blocks)


async def test_a_good_batch_is_refused_where_its_packing_asks_for_too_much(door: HttpDoor) -> None:
    batch = json.dumps([event("1")]).encode()
    padded = batch + b" " * 20_100
    packed = {
        "gzip": [b"".join(gzip.compress(batch[at : at + 1], mtime=0) for at in range(len(batch)))],
        "zstd": [_zstd_raw(batch, descriptor=b"\x00\x70"), _zstd_raw(padded, pieces=10_050)],
    }
    assert len(batch) > 64
    good = await door.post(_zstd_raw(batch), media_type=MANY, headers={"Content-Encoding": "zstd"})
    assert good.status_code == 202, good.text
    for coding, bodies_of in packed.items():
        for content in bodies_of:
            answer = await door.post(content, media_type=MANY, headers={"Content-Encoding": coding})
            assert (answer.status_code, answer.json()["code"]) == (400, "malformed"), answer.text


async def test_what_a_body_inflates_to_takes_room_as_well(door: HttpDoor) -> None:
    content = gzip.compress(json.dumps([event(str(n)) for n in range(50)]).encode(), mtime=0)
    object.__setattr__(door.door, "room", Room(len(content) + 100))
    answer = await door.post(content, media_type=MANY, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 503
    assert door.door.room.left == len(content) + 100


async def test_a_body_that_is_announced_as_too_large_is_refused_before_a_byte_of_it_is_read(door: HttpDoor) -> None:
    asked = []

    async def receive() -> Any:
        asked.append(1)
        return {"type": "http.request", "body": b"[", "more_body": True}

    answer: dict[str, Any] = {}

    async def send(message: Any) -> None:
        answer.update(message)

    headers = [
        (b"authorization", f"Bearer {door.keys['first']}".encode()),
        (b"content-length", str(MAX_BODY_BYTES + 1).encode()),
    ]
    scope = {"type": "http", "method": "POST", "path": "/v1/events", "query_string": b"", "headers": headers}
    await http.app(door.door)(scope | {"http_version": "1.1"}, receive, send)
    assert (answer["status"], asked) == (413, [])


@pytest.mark.parametrize("coding", ["br", "deflate", "gzip, gzip", "zstd,gzip", "none", "é", "gzip;q=1"])
async def test_other_encodings_are_refused_telling_which_are_read(door: HttpDoor, coding: str) -> None:
    answer = await door.post(b"[]", media_type=MANY, headers={"Content-Encoding": coding.encode()})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_content_encoding")
    assert answer.headers["accept-encoding"] == "gzip, zstd"


@pytest.mark.parametrize(("coding", "packed"), [("gzip", gzip.compress), ("zstd", zstd)])
async def test_a_bomb_stops_at_the_cap(door: HttpDoor, coding: str, packed: Any) -> None:
    exact = b"[" + b" " * (MAX_BODY_BYTES - 2) + b"]"
    answer = await door.post(packed(exact), media_type=MANY, headers={"Content-Encoding": coding})
    assert answer.json()["detail"] == "the batch holds no events"
    for bomb in (packed(exact + b" "), packed(bytes(100_000_000))):
        answer = await door.post(bomb, media_type=MANY, headers={"Content-Encoding": coding})
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
