"""`ingest.processes.v1`: an ingest process lives, or leaves. Counted by the others (services/ingest/live.py)."""

from __future__ import annotations

import msgspec


class Beat(msgspec.Struct, frozen=True, omit_defaults=True):
    process_id: str
    leaving: bool = False


_decoder = msgspec.json.Decoder(Beat)


def encode_beat(beat: Beat) -> bytes:
    return msgspec.json.encode(beat)


def decode_beat(value: bytes) -> Beat:
    """Raises msgspec.DecodeError for anything a process would not have written."""
    return _decoder.decode(value)
