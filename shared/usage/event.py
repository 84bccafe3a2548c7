"""A usage event that has been read and checked, ready to be folded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec

from shared.contracts.messages.event import EventContent, decode_content
from shared.domain.correction import CORRECTIONS, Correction, read_correction
from shared.domain.errors import Rejected
from shared.domain.identity import canonical, check_depth, fingerprint_of, identity_of
from shared.domain.meter import Meter, MeterIndex, Reading, readings
from shared.domain.period import LocalHour, LocalHours, Month


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a project is, and in which time zone its hours and months run."""

    organisation_id: str
    zone: ZoneInfo


@dataclass(frozen=True, slots=True)
class Metering:
    """What decides how an event is counted; read from the catalogue, valid for one epoch."""

    owners: Mapping[str, Owner]
    meters: MeterIndex


class Stream(msgspec.Struct, frozen=True):
    """What the events of one project, mode, source and type have in common; worked out once."""

    organisation_id: str
    project_id: str
    live: bool
    hours: LocalHours
    meters: tuple[Meter, ...] | None  # None: no meter knows the type
    key: Callable[[str], bytes]
    fingerprint: Callable[[str, bytes], int]


class UsageEvent(msgspec.Struct, frozen=True, gc=False):
    """`readings` has one entry per meter fed.

    A correction feeds none: what it does is decided when its target is known.
    Without readings no meter counts it: its type was accepted for one that will come, or filters leave it out.
    """

    stream: Stream
    subject: str
    time: datetime
    local_hour: LocalHour
    key: bytes
    fingerprint: int
    readings: tuple[Reading, ...]
    id: str
    correction: Correction | None = None

    @property
    def organisation_id(self) -> str:
        return self.stream.organisation_id

    @property
    def project_id(self) -> str:
        return self.stream.project_id

    @property
    def live(self) -> bool:
        return self.stream.live

    @property
    def hour(self) -> datetime:
        """The UTC instant at which the event's local hour starts."""
        return self.local_hour.start

    @property
    def month(self) -> Month:
        return self.local_hour.month


class EventReader:
    """Reads records of `usage.events.v1` under one catalogue. Not for several threads."""

    MOST_STREAMS = 16_384  # a source may be a device

    def __init__(self, metering: Metering) -> None:
        self.metering = metering
        self._streams: dict[tuple[str, bool, str, str], Stream] = {}
        self._hours: dict[ZoneInfo, LocalHours] = {}

    def read(self, value: bytes | None) -> UsageEvent:
        """Decode one record and check it. Raises Rejected: `malformed` and those of `check`."""
        if value is None:
            raise Rejected("malformed", "the record has no value")
        try:
            content = decode_content(value)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise Rejected("malformed", f"not a stamped event: {error}") from None
        return self.check(content)

    def check(self, content: EventContent) -> UsageEvent:
        """What the event means under this catalogue.

        Raises Rejected: `malformed`, `unknown_project`, `unknown_event_type`, `bad_value`, `invalid_correction`.
        """
        data, subject, time = content.data, content.subject, content.time
        stream = self._streams.get((content.project, content.live, content.source, content.type))
        if stream is None:
            stream = self._stream(content)
        try:
            said = canonical(data)
            check_depth(data, said)
            hour = stream.hours.of(time)
        except OverflowError:
            raise Rejected("malformed", "time is outside the calendar") from None
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Rejected("malformed", f"not a stamped event: {error}") from None
        if "\0" in subject or "\0" in content.id:
            raise Rejected("malformed", "not a stamped event: a NUL in its subject or id")
        correction = None
        if stream.meters is not None:
            found = readings(stream.meters, hour.start, data)
        elif content.unmetered:
            # What ingest accepted without a meter stays accepted, whatever the project's setting is by now.
            found = ()
        elif content.type in CORRECTIONS:
            if "\0" in content.source or "\0" in content.keyid:
                raise Rejected("malformed", "not a stamped event: a NUL in its source or keyid")
            correction = read_correction(content.type, content.project, content.live, content.source, content.id, data)
            found = ()
        else:
            raise Rejected("unknown_event_type", f"no meter counts events of type {content.type!r}")
        key, fingerprint = stream.key(content.id), stream.fingerprint(subject, said)
        return UsageEvent(stream, subject, time, hour, key, fingerprint, found, content.id, correction)

    def _stream(self, content: EventContent) -> Stream:
        owner = self.metering.owners.get(content.project)
        if owner is None:
            raise Rejected("unknown_project", f"there is no project {content.project!r}")
        if len(self._streams) >= self.MOST_STREAMS:
            self._streams.clear()
        stream = self._streams[content.project, content.live, content.source, content.type] = Stream(
            owner.organisation_id,
            content.project,
            content.live,
            self._hours.setdefault(owner.zone, LocalHours(owner.zone)),
            self.metering.meters.by_type.get(content.type),
            identity_of(content.project, content.live, content.source),
            fingerprint_of(content.type),
        )
        return stream


def read_event(value: bytes | None, metering: Metering) -> UsageEvent:
    """One record alone; see `EventReader.read`."""
    return EventReader(metering).read(value)
