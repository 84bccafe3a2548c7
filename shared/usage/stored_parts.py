"""Windows added up by Postgres, and read back: the same columns whoever asks, however the rows are grouped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.domain.identity import Fingerprint
from shared.usage.parts import Parts

_LATEST = ", ".join(
    f"(array_agg(kept.{column} ORDER BY kept.latest_time DESC, kept.latest_id DESC, kept.latest_value DESC) "
    "FILTER (WHERE kept.latest_time IS NOT NULL))[1]"
    for column in ("latest_time", "latest_id", "latest_value")
)
COLUMNS = (
    "sum(kept.count)::bigint, sum(kept.sum), sum(kept.fingerprint_high)::bigint, sum(kept.fingerprint_low)::bigint, "
    f"min(kept.minimum), max(kept.maximum), sum(kept.moment), {_LATEST}"
)
"""Of `usage.window AS kept`; nothing of it comes from outside."""


def parts_of(row: Sequence[Any]) -> Parts:
    """From the values of `COLUMNS`."""
    count, total, high, low, minimum, maximum, moment, *latest = row
    return Parts(
        count=count,
        sum=total,
        fingerprint=Fingerprint(high, low),
        minimum=minimum,
        maximum=maximum,
        moment=moment,
        latest=None if latest[0] is None else (latest[0], latest[1], latest[2]),
    )
