"""Points in time as an operator types them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from shared.domain.errors import Usage
from shared.runtime.instants import instant

NOW = datetime(2026, 10, 15, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-10-01T12:00:00+05:30", datetime(2026, 10, 1, 6, 30, tzinfo=UTC)),
        ("2026-10-01T12:00:00Z", datetime(2026, 10, 1, 12, tzinfo=UTC)),
        ("2026-10-01", datetime(2026, 10, 1, tzinfo=UTC)),
        ("24h", NOW - timedelta(hours=24)),
        (" 7d ", NOW - timedelta(days=7)),
    ],
)
def test_a_time_or_so_long_ago(text: str, expected: datetime) -> None:
    assert instant(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "soon", "24", "2026-13-01", "99999d", "0001-01-01T00:00:00+05:30"])
def test_anything_else_is_told(text: str) -> None:
    with pytest.raises(Usage):
        instant(text, NOW)
