"""A filter as a file: written once, moved into place in one step, mapped by every process of the host.

    header (128 bytes, little-endian)   magic, positions a key, generation, size in bits, keys, fingerprint (high, low),
                                        digest of the bits (xxh3-128), digest of the header so far (xxh3-64)
    bits                                size / 8 bytes

A file counts only if it is whole, says the very generation that Postgres has (id, count and fingerprint), and could be
written by nobody but this account: anything else is no filter, and keys are probed by index.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import struct
from enum import StrEnum
from pathlib import Path

import numpy as np
import xxhash

from services.aggregator.generations.bloom import POSITIONS, Bloom
from services.aggregator.generations.store import Generation

MAGIC = b"KHATABF1"
HEADER_BYTES = 128
_HEADER = struct.Struct("<8sIIQQqq16s")
_DIGEST = struct.Struct("<Q")
_PART = ".part"


class NoFilter(StrEnum):
    """Why there is none."""

    MISSING = "missing"
    FOREIGN = "foreign"  # of another generation, or of other keys under the same number
    DAMAGED = "damaged"
    UNSAFE = "unsafe"  # another account could have written it


def path_of(folder: Path, generation: Generation) -> Path:
    """Named by all that identifies it: databases that share a folder do not get into each other's way."""
    assert generation.keys is not None and generation.fingerprint is not None
    high, low = generation.fingerprint
    return folder / f"identities-{generation.id}-{generation.keys}-{high:x}-{low:x}.bloom"


def write(folder: Path, generation: Generation, bloom: Bloom) -> Path:
    """Write it beside its place, durable; `put` moves it there. Raises OSError."""
    bits = bloom.bits.tobytes()
    part = path_of(folder, generation).with_suffix(f".{os.getpid()}{_PART}")
    with part.open("wb") as file:
        os.fchmod(file.fileno(), 0o444)
        file.write(_header(generation, bits))
        file.write(bits)
        file.flush()
        os.fsync(file.fileno())
    return part


def put(part: Path, place: Path) -> None:
    """In one step: a reader sees the whole file or none. Raises OSError."""
    part.replace(place)


def prepare(folder: Path, generation: Generation) -> None:
    """Make the folder; remove what builders that were killed have left of this generation. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for part in folder.glob(f"{path_of(folder, generation).stem}.*{_PART}"):
        part.unlink(missing_ok=True)


def read(folder: Path, generation: Generation) -> Bloom | NoFilter:
    """Map the filter of a counted generation, after reading all of it once."""
    try:
        fd = os.open(path_of(folder, generation), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return NoFilter.MISSING
    except OSError:
        return NoFilter.UNSAFE
    try:
        return _mapped(fd, generation)
    finally:
        os.close(fd)


def remove(folder: Path, generation: Generation) -> None:
    """The file of a generation that is gone; processes that have it mapped keep it until they let go."""
    with contextlib.suppress(OSError):
        path_of(folder, generation).unlink(missing_ok=True)


def _mapped(fd: int, generation: Generation) -> Bloom | NoFilter:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        return NoFilter.UNSAFE
    if status.st_size < HEADER_BYTES:
        return NoFilter.DAMAGED
    mapped = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
    whole = memoryview(mapped)
    header, bits = bytes(whole[:HEADER_BYTES]), whole[HEADER_BYTES:]
    if header[_HEADER.size :] != _tail(header[: _HEADER.size]):
        return NoFilter.DAMAGED
    magic, positions, id, size, keys, high, low, digest = _HEADER.unpack_from(header)
    if (id, keys, (high, low)) != (generation.id, generation.keys, generation.fingerprint):
        return NoFilter.FOREIGN
    whole_bits = (len(bits) * 8, xxhash.xxh3_128_digest(bits)) == (size, digest)
    if (magic, positions) != (MAGIC, POSITIONS) or not size or not whole_bits:
        return NoFilter.DAMAGED
    return Bloom(np.frombuffer(bits, np.uint8))


def _header(generation: Generation, bits: bytes) -> bytes:
    assert generation.keys is not None and generation.fingerprint is not None
    digest = xxhash.xxh3_128_digest(bits)
    said = (generation.id, len(bits) * 8, generation.keys, *generation.fingerprint)
    start = _HEADER.pack(MAGIC, POSITIONS, *said, digest)
    return start + _tail(start)


def _tail(start: bytes) -> bytes:
    return _DIGEST.pack(xxhash.xxh3_64_intdigest(start)).ljust(HEADER_BYTES - _HEADER.size, b"\0")
