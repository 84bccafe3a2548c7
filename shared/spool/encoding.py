"""How messages and their acks are written into rows: many events in one compressed block.

One row per event costs 6 us in SQLite alone; a block costs that once. What repeats from event to event
(topic, headers) stands once per block.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import cramjam
import msgspec

from shared.domain.identity import Fingerprint
from shared.postgres.outbox import OutboxMessage
from shared.spool.errors import SpoolBroken

ZSTD_LEVEL = 1  # disk is written twice (log and file): a fast compression costs less than the bytes it saves

Ack = tuple[int, int]
"""Partition and offset under which Kafka has a record."""
Place = tuple[str, int, int]
"""Topic, partition and offset."""

_Shape = tuple[str, tuple[tuple[str, bytes], ...]]
_Block = tuple[list[_Shape], list[tuple[int, bytes | None, bytes | None]]]
_Acks = tuple[list[int], list[int]]

_encode = msgspec.msgpack.Encoder().encode
_decode_block = msgspec.msgpack.Decoder(_Block).decode
_decode_places = msgspec.msgpack.Decoder(list[Place]).decode
_decode_acks = msgspec.msgpack.Decoder(_Acks).decode


@dataclass(frozen=True, slots=True)
class Block:
    """Messages as stored; `digest` is over the payload, `fingerprint` over the events."""

    count: int
    payload: bytes
    digest: bytes
    fingerprint: Fingerprint


def pack(messages: Sequence[OutboxMessage]) -> Block:
    """Messages in order, byte for byte."""
    shapes: dict[_Shape, int] = {}
    rows = [
        (shapes.setdefault((message.topic, message.headers), len(shapes)), message.key, message.value)
        for message in messages
    ]
    payload = bytes(cramjam.zstd.compress(_encode((list(shapes), rows)), level=ZSTD_LEVEL))
    return Block(len(messages), payload, digest(payload), fingerprint(messages))


def unpack(payload: bytes, stored_digest: bytes, name: str) -> list[OutboxMessage]:
    """The messages. Raises SpoolBroken when the bytes are not those that were written."""
    if digest(payload) != stored_digest:
        raise SpoolBroken(f"{name} does not have the checksum it was stored with: keep the file, restore the disk")
    shapes, rows = _decode_block(bytes(cramjam.zstd.decompress(payload)))
    return [OutboxMessage(shapes[shape][0], key, value, shapes[shape][1]) for shape, key, value in rows]


def digest(payload: bytes) -> bytes:
    return blake2b(payload, digest_size=16).digest()


def fingerprint(messages: Iterable[OutboxMessage]) -> Fingerprint:
    """Order-free fingerprint over (key, value): whoever reads the log can compute it again."""
    hashes = b"".join(
        [
            blake2b(
                len(key := message.key or b"").to_bytes(4, "big") + key + (message.value or b""), digest_size=8
            ).digest()
            for message in messages
        ]
    )
    halves = struct.unpack(f">{len(hashes) // 4}I", hashes)
    return Fingerprint(sum(halves[0::2]), sum(halves[1::2]))


def pack_acks(topics: Sequence[str], acks: Sequence[Ack | None]) -> tuple[bytes, bytes]:
    """(places, acks): the highest offset of each partition touched, and the place of every single event.

    An event without ack (set aside) has none. Offsets are stored as steps within their partition, mostly 1.
    """
    assert len(topics) == len(acks)
    indexes: dict[tuple[str, int], int] = {}
    last: list[int] = []
    highest: list[int] = []
    which: list[int] = []
    steps: list[int] = []
    for topic, ack in zip(topics, acks, strict=True):
        if ack is None:
            which.append(0)
            continue
        partition, offset = ack
        index = indexes.setdefault((topic, partition), len(indexes))
        if index == len(last):
            last.append(0)
            highest.append(offset)
        which.append(index + 1)
        steps.append(offset - last[index])
        last[index] = offset
        highest[index] = max(highest[index], offset)
    places = [(topic, partition, highest[index]) for (topic, partition), index in indexes.items()]
    return _encode(places), bytes(cramjam.zstd.compress(_encode((which, steps)), level=ZSTD_LEVEL))


def unpack_places(places: bytes) -> list[Place]:
    return _decode_places(places)


def unpack_acks(places: bytes, acks: bytes) -> list[Place | None]:
    """Where Kafka has each event of a row, None for one that was set aside."""
    known = _decode_places(places)
    which, steps = _decode_acks(bytes(cramjam.zstd.decompress(acks)))
    last = [0] * len(known)
    found: list[Place | None] = []
    remaining = iter(steps)
    for number in which:
        if number == 0:
            found.append(None)
            continue
        last[number - 1] += next(remaining)
        found.append((known[number - 1][0], known[number - 1][1], last[number - 1]))
    return found
