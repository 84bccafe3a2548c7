"""What is remembered of one key: small enough to be written again after each minute."""

from __future__ import annotations

import msgspec

from shared.contracts.messages.anomaly import Class


class Minute(msgspec.Struct, frozen=True, array_like=True):
    """A minute that is not judged yet: more processes may still tell of it."""

    events: int = 0
    calls: int = 0
    failed: int = 0
    codes: dict[str, int] = {}


class KeyState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Minutes count from the epoch. Nothing in here is ever changed in place."""

    project_id: str | None = None
    organisation_id: str | None = None
    seen: tuple[str, ...] = ()  # the last (minute, process) taken: what is read again changes nothing
    waiting: dict[int, Minute] = {}
    judged: int = 0  # this minute and all before it
    last: int = 0  # with an event
    events: tuple[int, ...] = ()  # of the last minutes that had any
    gaps: tuple[int, ...] = ()  # minutes from one with events to the next
    longest_gap: dict[int, int] = {}  # that ended on a day (since the epoch): nights and weekends are no silence
    failing: float = 0.0  # failed calls a minute, as a moving average
    addresses: dict[str, int] = {}  # the day of their last use
    schemes: dict[str, int] = {}  # how addresses are told (clear, a pepper's id): the minute of the first
    lasting: tuple[Class, ...] = ()  # told, and not over yet
    told: dict[str, int] = {}  # by class: the minute of the last finding


_decoder = msgspec.json.Decoder(KeyState, strict=False)  # keys of JSON objects are texts


def encode_state(state: KeyState) -> bytes:
    return msgspec.json.encode(state)


def decode_state(value: bytes | None) -> KeyState:
    """Of a key that is not known yet: an empty one. Raises msgspec.DecodeError."""
    return KeyState() if value is None else _decoder.decode(value)
