"""The catalogue kept on disk, so that a process that starts while Kafka is away knows whom to let in.

Holds hashes of keys, never keys; mode 0600, written whole and renamed into place. It says as of when it was current:
who reads it counts its age from there. A file that is damaged, another's, or open to others is no file.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from datetime import datetime
from pathlib import Path

import msgspec

from shared.contracts.messages.catalogue import CatalogueMessage
from shared.observability import logging

_FORMAT = b"khata-catalogue-1"

log = logging.get(__name__)


class Kept(msgspec.Struct, frozen=True):
    """`as_of`: when this was known to be all of `topic`, which had been read up to `version`."""

    topic: str
    as_of: datetime
    version: int
    messages: list[CatalogueMessage]


_decoder = msgspec.json.Decoder(Kept)


def write(path: Path, kept: Kept) -> None:
    """Replace the file. Raises OSError; the old file stands then."""
    body = msgspec.json.encode(kept)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"%s %s\n" % (_FORMAT, hashlib.sha256(body).hexdigest().encode()))
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read(path: Path, topic: str) -> Kept | None:
    """What is kept of this topic; None, with a warning, for a file that cannot be trusted."""
    try:
        return _read(path, topic)
    except FileNotFoundError:
        return None
    except (OSError, _Untrusted) as error:
        log.warning("catalogue.file_ignored", file=str(path), why=str(error))
        return None


class _Untrusted(Exception):
    """Why a file is not used."""


def _read(path: Path, topic: str) -> Kept:
    with path.open("rb") as file:
        of_file = os.fstat(file.fileno())
        head, body = file.readline(200), file.read()
    if of_file.st_uid != os.geteuid() or stat.S_IMODE(of_file.st_mode) & 0o077:
        raise _Untrusted("it must belong to this account and be open to nobody else (mode 0600)")
    if head != b"%s %s\n" % (_FORMAT, hashlib.sha256(body).hexdigest().encode()):
        raise _Untrusted("it is damaged, or of another version")
    try:
        kept = _decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise _Untrusted(f"it cannot be read: {error}") from None
    if kept.topic != topic or kept.as_of.tzinfo is None:
        raise _Untrusted(f"it is of the topic {kept.topic}")
    return kept
