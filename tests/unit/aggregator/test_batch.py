"""Preparing a batch: every record has a place, whatever it is."""

from __future__ import annotations

from datetime import UTC, datetime

from services.aggregator.batch import prepare
from shared.domain.meter import Meter, MeterIndex
from shared.domain.period import time_zone
from shared.usage.event import EventReader, Metering, Owner
from tests.support.usage import NOON, batch, stamped

TOKENS = Meter("tokens", 1, "Tokens", "api.request", "sum", "tokens")
READER = EventReader(Metering({"acme-app": Owner("acme", time_zone("Asia/Kolkata"))}, MeterIndex.of([TOKENS])))


async def test_a_wrong_record_keeps_its_place_and_its_neighbours_theirs() -> None:
    later = datetime(2026, 10, 16, tzinfo=UTC)
    made = batch((0, 5, [stamped("a"), b"{", None, stamped("b", time=later)]), (3, 0, [b"\xff"]))
    prepared = await prepare(made, READER)
    assert [(place, event.id) for place, event in zip(prepared.places, prepared.events, strict=True)] == [
        (0, "a"),
        (3, "b"),
    ]
    assert [(reject.record.partition, reject.record.offset, reject.error.code) for reject in prepared.rejected] == [
        (0, 6, "malformed"),
        (0, 7, "malformed"),
        (3, 0, "malformed"),
    ]
    [(first, zero), (fourth, three)] = prepared.segments
    assert (first, zero.first_offset, zero.last_offset, zero.record_count) == (0, 5, 8, 4)
    assert (zero.earliest, zero.latest) == (NOON, later)
    assert (fourth, three.partition, three.earliest) == (4, 3, None)


async def test_a_newer_producer_may_add_attributes() -> None:
    extended = stamped("a")[:-1] + b',"traceparent":"00-1"}'
    assert len((await prepare(batch((0, 0, [extended])), READER)).events) == 1
