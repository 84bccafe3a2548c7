"""Points in time as an operator types them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from shared.domain.errors import Usage

LONGEST = timedelta(days=3650)
_AGO = re.compile(r"([0-9]{1,9})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def instant(text: str, now: datetime) -> datetime:
    """`2026-10-01T12:00:00+05:30`, `2026-10-01` (its start in UTC), or so long ago: 7d, 24h, 30m, 45s. Raises Usage."""
    if ago := _AGO.fullmatch(text.strip()):
        back = timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        if back > LONGEST:
            raise Usage(f"{text} is longer ago than {LONGEST.days} days")
        return now - back
    try:
        found = datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Usage(
            f"{text!r} is no time: write 2026-10-01T12:00:00Z, 2026-10-01 (UTC), or 7d, 24h, 30m for so long ago"
        ) from None
