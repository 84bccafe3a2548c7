"""The pure decisions: how long to pause, and whether the consumers have passed a row."""

from __future__ import annotations

import pytest

from shared.spool.forward import LONGEST_PAUSE_S, pause_s
from shared.spool.places import passed

ROW = [("t", 0, 41), ("t", 1, 7)]


def test_pauses_double_up_to_a_bound_and_are_half_random() -> None:
    assert [pause_s(failures, lambda: 1.0) for failures in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert pause_s(1, lambda: 0.0) == 0.05
    assert pause_s(10_000, lambda: 1.0) == LONGEST_PAUSE_S


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ({("t", 0): 42, ("t", 1): 8}, True),
        ({("t", 0): 41, ("t", 1): 8}, False),  # the position is the next offset: 41 is not consumed
        ({("t", 0): 42}, False),  # partition 1 is unknown
        ({("other", 0): 42, ("t", 1): 8}, False),
        ({}, False),
    ],
)
def test_a_row_is_passed_when_every_place_is(positions: dict[tuple[str, int], int], expected: bool) -> None:
    assert passed(ROW, 100, positions, {}) is expected


def test_a_held_partition_passes_only_what_was_acked_after_it_was_held() -> None:
    beyond = {("t", 0): 1000, ("t", 1): 1000}
    assert passed(ROW, 100, beyond, {("t", 1): 100}) is False
    assert passed(ROW, 101, beyond, {("t", 1): 100}) is True
