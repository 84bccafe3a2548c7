"""A usage event that has been decoded and checked, ready to be folded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from shared.contracts.messages.event import StampedEvent, decode_event
from shared.domain.errors import Rejected
from shared.domain.identity import identity_key, payload_fingerprint, read_data
from shared.domain.meter import MeterIndex, Reading
from shared.domain.period import Month, local_hour_start


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


class UsageEvent(msgspec.Struct, frozen=True, gc=False):
    """`hour` is the UTC instant at which the event's local hour starts; `readings` has one entry per meter fed.

    Without readings no meter counts it: its type was accepted for one that will come, or filters leave it out.
    """

    organisation_id: str
    project_id: str
    live: bool
    subject: str
    time: datetime
    hour: datetime
    month: Month
    key: bytes
    fingerprint: int
    readings: tuple[Reading, ...]
    id: str


@lru_cache(maxsize=16_384)
def _month_of_hour(hour: datetime, zone: ZoneInfo) -> Month:
    """Months begin with local hours."""
    return Month.of(hour, zone)


def read_event(value: bytes | None, metering: Metering) -> UsageEvent:
    """Decode one record of `usage.events.v1` and check it against the catalogue.

    Raises Rejected: `malformed`, `unknown_project`, `unknown_event_type`, `bad_value`.
    """
    if value is None:
        raise Rejected("malformed", "the record has no value")
    try:
        stamped = decode_event(value)
        data = read_data(bytes(stamped.data))
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Rejected("malformed", f"not a stamped event: {error}") from None
    return check_event(stamped, data, metering)


def check_event(stamped: StampedEvent, data: Any, metering: Metering) -> UsageEvent:
    """What the event means under this catalogue; `data` as `read_data` gives it. Raises Rejected."""
    owner = metering.owners.get(stamped.project)
    if owner is None:
        raise Rejected("unknown_project", f"there is no project {stamped.project!r}")
    # What ingest accepted without a meter stays accepted, whatever the project's setting is by now.
    unmetered = stamped.unmetered and stamped.type not in metering.meters.by_type
    try:
        hour = local_hour_start(stamped.time, owner.zone)
    except OverflowError:
        raise Rejected("malformed", "time is outside the calendar") from None
    return UsageEvent(
        organisation_id=owner.organisation_id,
        project_id=stamped.project,
        live=stamped.live,
        subject=stamped.subject,
        time=stamped.time,
        hour=hour,
        month=_month_of_hour(hour, owner.zone),
        key=identity_key(stamped.project, stamped.live, stamped.source, stamped.id),
        fingerprint=payload_fingerprint(stamped.type, stamped.subject, data),
        readings=() if unmetered else metering.meters.readings(stamped.type, hour, data),
        id=stamped.id,
    )
