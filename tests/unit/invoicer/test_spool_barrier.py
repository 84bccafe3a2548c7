"""Which spools a close must wait for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.invoicer.spool_barrier import holds_up
from shared.contracts.messages.spool import SpoolState

BEGAN = datetime(2026, 11, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def spool(**changes: Any) -> SpoolState:
    values: dict[str, Any] = {
        "spool_id": "s1",
        "instance": "edge-1",
        "as_of": BEGAN + SECOND,
        "oldest_unsent_at": None,
        "unsent_events": 0,
        "unsent_bytes": 0,
        "set_aside_events": 0,
        "accepted_total": 5,
        "forwarded_total": 5,
        "lost_total": 0,
        "fingerprint": (1, 1),
        "forwarded_fingerprint": (1, 1),
        "file_bytes": 1,
        "cap_bytes": 2,
        "retired": False,
    }
    return SpoolState(**(values | changes))


@pytest.mark.parametrize(
    ("state", "waits"),
    [
        (spool(), False),
        (spool(as_of=BEGAN), True),  # said too early: it may have accepted since
        (spool(as_of=BEGAN - SECOND), True),
        (spool(oldest_unsent_at=BEGAN - SECOND, unsent_events=1), True),
        (spool(oldest_unsent_at=BEGAN + SECOND, unsent_events=1), False),  # accepted after the close began
        (spool(as_of=BEGAN - SECOND, retired=True), False),
    ],
)
def test_a_close_waits_for_what_was_accepted_before_it_began(state: SpoolState, waits: bool) -> None:
    assert holds_up(state, BEGAN, {}) is waits


def test_a_waived_spool_is_not_waited_for_until_it_speaks_again() -> None:
    silent = spool(as_of=BEGAN - 60 * SECOND, oldest_unsent_at=BEGAN - 90 * SECOND, unsent_events=3)
    waived = {"s1": BEGAN - 30 * SECOND}
    assert not holds_up(silent, BEGAN, waived)
    assert holds_up(silent, BEGAN, {"another": BEGAN})
    back = spool(as_of=BEGAN - SECOND, oldest_unsent_at=BEGAN - 90 * SECOND, unsent_events=3)
    assert holds_up(back, BEGAN, waived)
