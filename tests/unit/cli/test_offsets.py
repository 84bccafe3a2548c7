"""A rewind goes back, never over records that were not read; one way forward: where there is nothing to read."""

from __future__ import annotations

import pytest

from cli.offsets import BEGINNING, role_of, target
from shared.domain.errors import Usage


@pytest.mark.parametrize(
    ("to", "stored", "at_time", "expected"),
    [
        (BEGINNING, 50, None, 10),
        ("10", 50, None, 10),
        ("50", 50, None, 50),
        ("time", 50, 30, 30),
        ("time", 50, 90, 50),  # nothing came since that was not read
        (BEGINNING, 5, None, 10),  # retention took 5 to 9
        ("time", 5, 40, 10),
        (BEGINNING, 500, None, 10),  # the topic was made anew
        ("time", 500, 40, 40),
    ],
)
def test_where_a_partition_goes_on(to: str, stored: int, at_time: int | None, expected: int) -> None:
    assert target(to, stored, (10, 100), at_time) == expected


@pytest.mark.parametrize(
    ("to", "says"), [("51", "1 records would never be read"), ("9", "not in the log"), ("101", "not in the log")]
)
def test_what_would_pass_records_over_or_is_not_in_the_log_is_refused(to: str, says: str) -> None:
    with pytest.raises(Usage, match=says):
        target(to, 50, (10, 100), None)


def test_a_group_is_moved_by_its_own_service() -> None:
    assert role_of("p.khata.aggregator") == role_of("khata.aggregator.dead-letters") == "khata_aggregator"
    assert role_of("khata.payments") == "khata_payments"
    for name in ("khata.ingest.door", "khata.aggregator.a.b", "aggregator", ""):
        with pytest.raises(Usage, match="no offsets in Postgres"):
            role_of(name)
