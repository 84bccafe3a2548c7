"""What is remembered of one series: the windows of one subject, meter version and dimensions, hour after hour."""

from __future__ import annotations

import msgspec


class Hour(msgspec.Struct, frozen=True, array_like=True):
    """A window as last told. `base_count`, `base_value`: as it stood when its hour was long over."""

    revision: int
    count: int
    value: str  # exact: the quantity where hours add up, else the number of events
    quantity: str | None
    base_count: int
    base_value: str


class SeriesState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Hours count from the epoch, `offset_s` after the full hour of UTC. Nothing in here is ever changed in place."""

    organisation_id: str = ""
    offset_s: int = 0
    billable: bool = False
    since: int = 0  # the first hour; one after it without a window was an hour without events
    judged: int = 0  # this hour and all before it
    hours: dict[int, Hour] = {}
    told: dict[str, str] = {}  # by class and hour: how large it was


_decoder = msgspec.json.Decoder(SeriesState, strict=False)  # keys of JSON objects are texts


def encode_series(state: SeriesState) -> bytes:
    return msgspec.json.encode(state)


def decode_series(value: bytes | None) -> SeriesState:
    """Of a series that is not known yet: an empty one. Raises msgspec.DecodeError."""
    return SeriesState() if value is None else _decoder.decode(value)


class Series(msgspec.Struct, frozen=True, array_like=True):
    """Which windows belong together; the key of the state."""

    project_id: str
    subject: str
    meter_id: str
    meter_version: int
    dimensions: str


_series = msgspec.json.Decoder(Series)


def encode_key(series: Series) -> bytes:
    return msgspec.json.encode(series)


def decode_key(key: bytes) -> Series:
    return _series.decode(key)
