"""Is this a usage event we can count? Pure: the same bytes, catalogue and instant give the same answer.

msgspec decodes the envelope and leaves `data` as the bytes that were sent: pydantic would turn its
numbers into floats, and no quantity may ever be rounded (docs/decisions/0002-msgspec-at-the-door.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn
from zoneinfo import ZoneInfo

import msgspec

from shared.contracts.messages.event import StampedEvent
from shared.domain.correction import CORRECTIONS, RESERVED, is_reserved, read_correction
from shared.domain.errors import Rejected
from shared.domain.identity import read_data
from shared.domain.meter import MeterIndex
from shared.domain.period import local_hour_start

_TAKEN = " and ".join(sorted(CORRECTIONS))
UTC_ZONE = ZoneInfo("UTC")
MAX_EVENT_BYTES = 256 * 1024
MAX_COMMAS = 300_000
MAX_AHEAD = timedelta(minutes=5)  # a clock may be wrong by that much

_LENGTHS = {"id": 256, "source": 512, "type": 256, "subject": 256}
# CloudEvents 1.0, type system: no control characters, no noncharacters (surrogates are no UTF-8 anyway).
_NONCHARACTERS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_FORBIDDEN = re.compile(f"[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef{_NONCHARACTERS}]")


class Envelope(msgspec.Struct, gc=False):
    """What we read of a CloudEvent; other attributes are allowed and not used."""

    specversion: str = ""
    id: str = ""
    source: str = ""
    type: str = ""
    subject: str = ""
    time: str | None = None
    datacontenttype: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    data_base64: str | None = None
    project: str | None = None
    mode: str | None = None


_envelope = msgspec.json.Decoder(Envelope)
_array = msgspec.json.Decoder(list[msgspec.Raw])


class Sender(msgspec.Struct, frozen=True):
    """For whom the events are: proven by the API key, or named by a trusted producer on Kafka."""

    project: str
    live: bool
    key_id: str = ""

    @property
    def mode(self) -> str:
        return "live" if self.live else "test"


@dataclass(frozen=True, slots=True)
class Clock:
    """`now`: what missing times become and age limits are taken against; `horizon`: how old an event may be."""

    now: datetime
    horizon: timedelta


def is_json(content_type: str) -> bool:
    """Whether a media type is JSON by its name: `application/json`, or with the suffix `+json` (RFC 6839)."""
    media_type = content_type.partition(";")[0].strip(" \t").lower()
    return media_type.rpartition("/")[2] == "json" or media_type.endswith("+json")


def split(body: bytes) -> list[bytes]:
    """The events of a JSON array, each as its own bytes. Raises Rejected (`malformed`, `too_large`)."""
    if body.count(b",") > MAX_COMMAS:  # before decoding: a million tiny elements would take 300 MB
        raise Rejected("too_large", f"a body may hold at most {MAX_COMMAS} values; send several calls")
    try:
        return [bytes(raw) for raw in _array.decode(body)]
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Rejected("malformed", f"the body is not a JSON array: {error}") from None


def read_envelope(raw: bytes) -> Envelope:
    """Raises Rejected: `too_large`, `malformed`, `invalid_event`."""
    if len(raw) > MAX_EVENT_BYTES:
        raise Rejected("too_large", f"an event may have at most {MAX_EVENT_BYTES} bytes")
    try:
        return _envelope.decode(raw)
    except msgspec.ValidationError as error:
        raise Rejected("invalid_event", f"not a CloudEvent: {error}") from None
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Rejected("malformed", f"not JSON: {error}") from None


def stamp(
    envelope: Envelope,
    sender: Sender,
    meters: MeterIndex,
    clock: Clock,
    ingest_id: str,
    version: int,
    *,
    accept_unknown_types: bool = False,
    zone: ZoneInfo = UTC_ZONE,
) -> StampedEvent:
    """The event as it goes to `usage.events.v1`. Raises Rejected with a code and what to do.

    A correction needs no meter: what it does to its target is decided where that is counted.
    `accept_unknown_types` is the project's setting: a type without a meter is taken and marked as such. `zone` is its
    organisation's: by its hours a meter's versions follow each other.
    """
    if envelope.specversion != "1.0":
        _refuse("invalid_event", 'specversion must be "1.0" (CloudEvents)')
    for name, longest in _LENGTHS.items():
        _check_text(name, getattr(envelope, name), longest)
    if envelope.project is not None and envelope.project != sender.project:
        _refuse("wrong_project", f"this sender acts for project {sender.project!r} only")
    if envelope.mode is not None and envelope.mode != sender.mode:
        _refuse("wrong_mode", f"the extension mode must be {sender.mode} (as this sender is), or be left out")
    if envelope.data_base64 is not None:
        _refuse("unsupported_data", "data_base64 is not read; send JSON in data")
    if envelope.datacontenttype and not is_json(envelope.datacontenttype):
        _refuse("unsupported_data", "datacontenttype must be application/json")
    raw = bytes(envelope.data)
    data = _read(raw)
    corrects = envelope.type in CORRECTIONS
    if is_reserved(envelope.type):
        _refuse("reserved_type", f"types that begin with khata. are Khata's own; of them {_TAKEN} are taken")
    if corrects:
        read_correction(envelope.type, sender.project, sender.live, envelope.source, envelope.id, data)
    unmetered = accept_unknown_types and not corrects and envelope.type not in meters.by_type
    time = _time(envelope.time, clock)
    if not unmetered and not corrects:
        hour = local_hour_start(time, zone) if envelope.type in meters.changing else time
        meters.readings(envelope.type, hour, data)
    return StampedEvent(
        id=envelope.id,
        source=envelope.source,
        type=envelope.type,
        subject=envelope.subject,
        time=time,
        project=sender.project,
        live=sender.live,
        ingestedat=clock.now,
        ingestid=ingest_id,
        data=msgspec.Raw(raw),
        keyid=sender.key_id,
        catalogueversion=version,
        unmetered=unmetered,
    )


def is_known(event_type: str, meters: MeterIndex) -> bool:
    """Whether the type is a meter's or Khata's own: no newer catalogue has to be waited for."""
    return event_type in meters.by_type or event_type.startswith(RESERVED)


def _check_text(name: str, value: str, longest: int) -> None:
    if not value:
        _refuse("invalid_event", f"{name} is missing")
    if len(value) > longest:
        _refuse("invalid_event", f"{name} may have at most {longest} characters")
    if not value.isprintable() and _FORBIDDEN.search(value):  # nothing printable is forbidden; asking that is cheap
        _refuse("invalid_event", f"{name} must not hold control characters or noncharacters")


def _read(raw: bytes) -> Any:
    try:
        return read_data(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Rejected("malformed", f"data is not JSON: {error}") from None


def _time(text: str | None, clock: Clock) -> datetime:
    if text is None:
        return clock.now
    try:
        time = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        _refuse("invalid_time", "time must be RFC 3339 with a zone, like 2026-10-01T12:00:00Z")
    if time.tzinfo is None:
        _refuse("invalid_time", "time must say its zone, like 2026-10-01T12:00:00Z or +05:30")
    try:
        time = time.astimezone(UTC)
    except OverflowError:
        _refuse("invalid_time", "time is outside the calendar")
    if time > clock.now + MAX_AHEAD:
        _refuse("in_the_future", f"time is more than {MAX_AHEAD.seconds // 60} minutes ahead")
    if time < clock.now - clock.horizon:
        _refuse("too_late", f"time is older than {clock.horizon.days} days")
    return time


def _refuse(code: str, message: str) -> NoReturn:
    raise Rejected(code, message)
