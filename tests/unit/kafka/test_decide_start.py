"""Where a partition goes on: every case of (stored, log start, log end)."""

from __future__ import annotations

import pytest

from shared.domain.errors import LogMoved
from shared.kafka.offsets import Start, StoredOffset, decide_start

DIGEST = b"d" * 32
PLAIN, KNOWN = StoredOffset(10), StoredOffset(10, 9, DIGEST)


@pytest.mark.parametrize(
    ("stored", "log_start", "log_end", "expected"),
    [
        pytest.param(None, 0, 100, Start(0, 0), id="a new group starts at the beginning"),
        pytest.param(None, 7, 7, Start(7, 7), id="of a log that retention has emptied, too"),
        pytest.param(PLAIN, 0, 100, Start(10, 10), id="no record kept: the position alone"),
        pytest.param(PLAIN, 10, 10, Start(10, 10), id="position = start = end"),
        pytest.param(KNOWN, 0, 100, Start(9, 10, 9, DIGEST), id="the last record applied is looked at again"),
        pytest.param(KNOWN, 9, 10, Start(9, 10, 9, DIGEST), id="also when it is the only one left"),
    ],
)
def test_a_log_that_can_be_ours_is_gone_on_with(
    stored: StoredOffset | None, log_start: int, log_end: int, expected: Start
) -> None:
    assert decide_start("t[0]", stored, log_start, log_end) == expected


def test_a_last_record_that_retention_took_is_a_warning() -> None:
    start = decide_start("t[0]", KNOWN, 10, 20)
    assert (start.seek, start.position, start.verify_offset) == (10, 10, None)
    assert start.warning is not None
    assert "t[0]" in start.warning


@pytest.mark.parametrize(
    ("log_start", "log_end", "why"),
    [
        (0, 9, "truncated or made anew"),
        (0, 0, "truncated or made anew"),
        (11, 50, "retention took 1 records"),
        (20, 20, "retention took 10 records"),
    ],
)
@pytest.mark.parametrize("stored", [PLAIN, KNOWN])
def test_a_log_that_cannot_be_ours_stops_the_process(
    stored: StoredOffset, log_start: int, log_end: int, why: str
) -> None:
    with pytest.raises(LogMoved, match=why):
        decide_start("t[0]", stored, log_start, log_end)
