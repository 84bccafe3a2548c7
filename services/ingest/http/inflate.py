"""Content-Encoding: gzip (RFC 1952) and zstd (RFC 8878), never more than `most` bytes out. Pure.

A bomb stops at the cap: gzip is inflated with a limit, zstd into a buffer of that size. What else could cost much
is counted before it is done: members, blocks, and the window that a zstd frame asks for (RFC 9659: 8 MB for HTTP).
"""

from __future__ import annotations

import zlib

import cramjam

from shared.domain.errors import Rejected

MAX_GZIP_MEMBERS = 64  # each further one copies what is left of the body
MAX_ZSTD_BLOCKS = 10_000
MAX_WINDOW_BYTES = 8 * 1024 * 1024

_ZSTD_MAGIC = 0xFD2FB528
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_RLE, _RESERVED = 1, 3
_FULL = "failed to write whole buffer"


def inflate(data: bytes, coding: str, most: int) -> bytes:
    """Raises Rejected: `unsupported_content_encoding`, `malformed`, `too_large` (when `most` is passed)."""
    match coding:
        case "" | "identity":
            return data
        case "gzip" | "x-gzip":
            return _gunzip(data, most)
        case "zstd":
            return _unzstd(data, most)
    raise Rejected("unsupported_content_encoding", "content-encoding must be gzip or zstd, one of them")


def _too_large(most: int) -> Rejected:
    return Rejected("too_large", f"the inflated body may have at most {most} bytes; send several calls")


def _gunzip(data: bytes, most: int) -> bytes:
    found = bytearray()
    for _ in range(MAX_GZIP_MEMBERS):
        member = zlib.decompressobj(wbits=31)
        try:
            found += member.decompress(data, most - len(found) + 1)
        except zlib.error as error:
            raise Rejected("malformed", f"the body is not gzip: {error}") from None
        if len(found) > most:
            raise _too_large(most)
        if not member.eof:
            raise Rejected("malformed", "the body is not gzip: it ends too early")
        data = member.unused_data
        if not data:
            return bytes(found)
    raise Rejected("malformed", f"the gzip body has more than {MAX_GZIP_MEMBERS} members")


def _unzstd(data: bytes, most: int) -> bytes:
    try:
        _check_frames(data, most)
    except IndexError:
        raise Rejected("malformed", "the body is not zstd: it ends too early") from None
    room = bytearray(most + 1)
    try:
        size = cramjam.zstd.decompress_into(data, room)
    except cramjam.DecompressionError as error:
        if _FULL in str(error):
            raise _too_large(most) from None
        raise Rejected("malformed", f"the body is not zstd: {error}") from None
    if size > most:
        raise _too_large(most)
    return bytes(memoryview(room)[:size])


def _check_frames(data: bytes, most: int) -> None:
    """Walk over all frames without inflating them (RFC 8878 section 3.1). Raises Rejected, IndexError."""
    at = blocks = 0
    while at < len(data) or at == 0:
        magic = _number(data, at, 4)
        if magic in _SKIPPABLE:
            at += 8 + _number(data, at + 4, 4)
            blocks += 1
        elif magic == _ZSTD_MAGIC:
            at, blocks = _check_frame(data, at + 4, blocks, most)
        else:
            raise Rejected("malformed", "the body is not zstd")
        if blocks > MAX_ZSTD_BLOCKS:
            raise Rejected("malformed", f"the zstd body has more than {MAX_ZSTD_BLOCKS} blocks")


def _check_frame(data: bytes, at: int, blocks: int, most: int) -> tuple[int, int]:
    """One frame, from behind its magic number. Returns where it ends and how many blocks were seen so far."""
    descriptor = data[at]
    single = bool(descriptor & 0x20)
    at += 1
    window = 0
    if not single:
        base = 1 << (10 + (data[at] >> 3))
        window = base + base // 8 * (data[at] & 7)
        at += 1
    dictionary_bytes = (0, 1, 2, 4)[descriptor & 3]
    if dictionary_bytes and _number(data, at, dictionary_bytes):
        raise Rejected("malformed", "the zstd body needs a dictionary")
    at += dictionary_bytes
    size_bytes = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    size = _number(data, at, size_bytes) if size_bytes else 0
    at += size_bytes
    if size > most:
        raise _too_large(most)
    if window > MAX_WINDOW_BYTES:
        raise Rejected("malformed", "the zstd body needs a window above 8 MB (RFC 9659)")
    last = False
    while not last:
        header = _number(data, at, 3)
        last, kind = bool(header & 1), header >> 1 & 3
        if kind == _RESERVED:
            raise Rejected("malformed", "the body is not zstd: a block of a reserved kind")
        at += 3 + (1 if kind == _RLE else header >> 3)
        blocks += 1
        if blocks > MAX_ZSTD_BLOCKS:
            break
    return at + (4 if descriptor & 4 else 0), blocks


def _number(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise IndexError
    return int.from_bytes(data[at : at + size], "little")
