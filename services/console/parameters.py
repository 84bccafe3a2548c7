"""The parameters of a usage query. Pure; a misspelt one is refused rather than left out."""

from __future__ import annotations

from datetime import date, datetime
from typing import get_args
from zoneinfo import ZoneInfo

from starlette.datastructures import QueryParams

from shared.contracts.messages.catalogue import ApiKeyMessage
from shared.domain.errors import Rejected
from shared.domain.period import Window, day_start, time_zone
from shared.usage.query import UsageQuery

SEPARATOR = "/"
FORMATS = ("json", "csv")
WINDOWS: tuple[Window, ...] = get_args(Window)
FILTER = "filter."
FIRST_YEAR, LAST_YEAR = 1973, 2200
_KNOWN = ("from", "to", "window", "time_zone", "subject", "group_by", "format")
_ONCE = ("from", "to", "window", "time_zone", "subject", "format")


def usage_query(
    given: QueryParams, accept: str, key: ApiKeyMessage, meter_id: str, kept_in: ZoneInfo
) -> tuple[UsageQuery, bool]:
    """The query, and whether the answer is CSV. Raises Rejected (`invalid_parameter`, `unknown_time_zone`).

    `from` and `to` are instants (RFC 3339, with zone) or days of the time zone, `to` exclusive; `group_by` names
    separated by commas; `filter.<dimension>` may come several times.
    """
    names = [name for name, _ in given.multi_items()]
    for name in names:
        if name not in _KNOWN and not name.startswith(FILTER):
            raise Rejected(
                "invalid_parameter", f"{name!r} is no parameter; there are {', '.join(_KNOWN)}, {FILTER}<name>"
            )
        if name in _ONCE and names.count(name) > 1:
            raise Rejected("invalid_parameter", f"{name} may come once")
    if any("\0" in value for _, value in given.multi_items()):
        raise Rejected("invalid_parameter", "no parameter may hold NUL")
    zone = time_zone(given["time_zone"]) if "time_zone" in given else kept_in
    window = given.get("window", "period")
    if window not in WINDOWS:
        raise Rejected("invalid_parameter", f"window must be {', '.join(WINDOWS)}")
    form = given.get("format") or ("csv" if accept.partition(";")[0].strip() == "text/csv" else "json")
    if form not in FORMATS:
        raise Rejected("invalid_parameter", f"format must be {' or '.join(FORMATS)}")
    query = UsageQuery(
        project_id=key.project_id,
        live=key.live,
        meter_id=meter_id,
        start=_instant(given, "from", zone),
        end=_instant(given, "to", zone),
        window=window,
        zone=zone,
        kept_in=kept_in,
        subject=given.get("subject"),
        group_by=tuple(dict.fromkeys(name for name in given.get("group_by", "").split(",") if name)),
        filters={name.removeprefix(FILTER): given.getlist(name) for name in names if name.startswith(FILTER)},
    )
    return query, form == "csv"


def _instant(given: QueryParams, name: str, zone: ZoneInfo) -> datetime:
    text = given.get(name)
    if text is None:
        raise Rejected("invalid_parameter", f"{name} is needed: a day (2026-10-01) or an instant with its zone")
    try:
        if len(text) == len("2026-10-01"):
            instant: datetime | None = day_start(date.fromisoformat(text), zone)
        else:
            instant = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        instant = None
    if instant is None or instant.tzinfo is None:
        raise Rejected("invalid_parameter", f"{name} must be a day (2026-10-01) or an instant with its zone")
    if not FIRST_YEAR <= instant.year <= LAST_YEAR:
        raise Rejected("invalid_parameter", f"{name} must lie between the years {FIRST_YEAR} and {LAST_YEAR}")
    return instant
