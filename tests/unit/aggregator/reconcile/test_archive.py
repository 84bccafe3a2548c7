"""The archive against the log: every changed byte, hole and overlap is found and named."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.aggregator.reconcile.archive import Coverage, SegmentRow, compare, hole, is_equal, open_segment, runs
from services.aggregator.reconcile.finding import FindingClass
from shared.kafka.records import Record
from shared.usage.segment import pack
from tests.support.usage import stamped

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Logged:
    """A record as aiokafka hands it out."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


def records(*offsets: int) -> list[Record]:
    return [
        Record("t", 0, offset, 1000 + offset, b"k%d" % offset, stamped(f"e{offset}"), (("h", b"1"),))
        for offset in offsets
    ]


def log_of(found: list[Record]) -> list[Logged]:
    return [Logged(one.offset, one.timestamp_ms, one.key, one.value, one.headers) for one in found]


def row(found: list[Record], **more: Any) -> SegmentRow:
    segment = pack(found, [NOW] * len(found))
    values = SegmentRow(
        *("t", 0, segment.first_offset, segment.last_offset, segment.record_count, b"c" * len(found)),
        sha256=segment.sha256,
        payload=segment.payload,
        earliest=NOW,
        stored_at=NOW,
    )
    return replace(values, **more)


def test_the_same_records_are_equal_byte_for_byte() -> None:
    mine = records(*range(20))
    assert open_segment(row(mine)) == (mine, None)
    assert is_equal(row(mine), log_of(mine))
    assert compare(row(mine), mine, log_of(mine), 0) == []
    assert not is_equal(row(mine), log_of(mine)[:-1])
    assert not is_equal(row(records(1, 3)), log_of(records(1, 3)))  # it does not hold its whole range


@pytest.mark.parametrize(
    ("part", "value"),
    [("value", b"{}"), ("key", None), ("headers", (("h", b"2"),)), ("timestamp", 1), ("headers", (("g", b"1"),))],
)
def test_any_part_of_a_record_that_differs_is_named_with_its_event(part: str, value: Any) -> None:
    mine = records(*range(5))
    log = log_of(mine)
    log[3] = replace(log[3], **{part: value})
    assert not is_equal(row(mine), log)
    [found] = compare(row(mine), mine, log, 0)
    assert found.found is FindingClass.ARCHIVE_DIFFERS
    assert (found.first_offset, found.last_offset, found.details["changed"]) == (3, 3, [part])
    assert "e3" in found.details["in_archive"]


def test_a_record_that_the_log_has_lost_is_told_but_not_below_its_retention() -> None:
    mine = records(*range(10))
    log = [one for one in log_of(mine) if one.offset not in (2, 6, 7)]
    found = compare(row(mine), mine, log, 5)
    assert [(one.found, one.first_offset, one.last_offset) for one in found] == [(FindingClass.LOG_MISSING, 6, 7)]
    assert compare(row(mine), mine, log_of(mine)[4:], 4) == []


def test_a_header_without_a_value_in_the_log_is_an_empty_one_in_the_archive() -> None:
    mine = [Record("t", 0, 0, 1, b"k", b"v", (("h", b""),))]
    assert compare(row(mine), mine, [Logged(0, 1, b"k", b"v", (("h", None),))], 0) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"payload": b"nothing"},
        {"sha256": b"0" * 32},
        {"dispositions": b"cc"},
        {"record_count": 4},
        {"first_offset": 1},
        {"last_offset": 9},
    ],
)
def test_a_segment_that_is_not_what_it_says_is_damaged(wrong: dict[str, Any]) -> None:
    assert not is_equal(row(records(2, 3, 4), **wrong), log_of(records(2, 3, 4))[: wrong.get("record_count", 3)])
    _, damage = open_segment(row(records(2, 3, 4), **wrong))
    assert damage is not None
    assert damage.found is FindingClass.ARCHIVE_DAMAGED


def test_a_hole_is_told_with_the_command_that_fills_it_while_the_log_can() -> None:
    told = hole(2, (10, 19), group="khata.aggregator", topic="usage.events.v1", log_start=5)
    assert "khata offsets rewind --group khata.aggregator --topic usage.events.v1 --partition 2 --to 10" in told.text
    assert "rewind" not in hole(2, (10, 19), group="g", topic="t", log_start=11).text


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_every_offset_that_no_segment_or_two_segments_hold_is_found(seed: int) -> None:
    """Dense segments, sparse ones of a rewind, holes and overlaps in any mixture."""
    chance = random.Random(seed)
    held: list[list[int]] = []
    for _ in range(chance.randrange(8)):
        first = chance.randrange(50)
        whole = list(range(first, first + chance.randrange(1, 12)))
        sparse = chance.random() < 0.4
        held.append(sorted(chance.sample(whole, chance.randrange(1, len(whole) + 1))) if sparse else whole)
    held.sort()
    start, end = chance.randrange(20), chance.randrange(30, 70)
    coverage = Coverage(start)
    for offsets in held:
        if offsets[0] < end and offsets[-1] >= start:
            coverage.add(row(records(*offsets)), records(*offsets))
    coverage.finish(end)
    count = [sum(offset in offsets for offsets in held if offsets[0] < end) for offset in range(80)]
    missing = {offset for first, last in coverage.missing for offset in range(first, last + 1)}
    doubled = {offset for first, last in coverage.overlapping for offset in range(first, last + 1)}
    assert {offset for offset in missing if offset < end} == {o for o in range(start, end) if count[o] == 0}
    assert {offset for offset in doubled if offset < end} == {o for o in range(start, end) if count[o] > 1}


def test_runs_are_stretches_without_a_gap() -> None:
    assert list(runs([0, 1, 2, 5, 7, 8])) == [(0, 2), (5, 5), (7, 8)]
    assert list(runs([])) == []
