"""Preparing a batch: every record has a place, whatever it is."""

from __future__ import annotations

from datetime import UTC, datetime

from services.aggregator.batch import prepare
from tests.support.usage import NOON, batch, stamped


def test_a_wrong_record_keeps_its_place_and_its_neighbours_theirs() -> None:
    later = datetime(2026, 10, 16, tzinfo=UTC)
    made = batch((0, 5, [stamped("a"), b"{", None, stamped("b", time=later)]), (3, 0, [b"\xff"]))
    prepared = prepare(made)
    assert [(one.index, one.event.id) for one in prepared.decoded] == [(0, "a"), (3, "b")]
    assert [(reject.record.partition, reject.record.offset, reject.error.code) for reject in prepared.malformed] == [
        (0, 6, "malformed"),
        (0, 7, "malformed"),
        (3, 0, "malformed"),
    ]
    [(first, zero), (fourth, three)] = prepared.segments
    assert (first, zero.first_offset, zero.last_offset, zero.record_count) == (0, 5, 8, 4)
    assert (zero.earliest, zero.latest) == (NOON, later)
    assert (fourth, three.partition, three.earliest) == (4, 3, None)


def test_a_newer_producer_may_add_attributes() -> None:
    extended = stamped("a")[:-1] + b',"traceparent":"00-1"}'
    assert len(prepare(batch((0, 0, [extended]))).decoded) == 1
