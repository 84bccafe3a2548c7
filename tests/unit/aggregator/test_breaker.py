"""The breaker trips before a batch is written, on what was written and on the batch itself."""

from __future__ import annotations

import pytest

from services.aggregator.breaker import Breaker
from shared.domain.errors import Fatal, Rejected
from shared.kafka.dead_letter import Reject
from shared.kafka.records import Record


def rejects(count: int) -> list[Reject]:
    record = Record("t", 0, 0, 0, None, b"", ())
    return [Reject(record, Rejected("unknown_event_type", "no meter counts events of type 'x'"))] * count


def test_more_than_half_of_the_last_thousand_stops_with_the_reason() -> None:
    breaker = Breaker()
    for _ in range(9):
        breaker.check(rejects(50), 100)
        breaker.note()
    with pytest.raises(Fatal, match=r"501 of the last 1000 records were rejected.* unknown_event_type: no meter"):
        breaker.check(rejects(51), 100)


def test_half_of_them_does_not() -> None:
    breaker = Breaker()
    for _ in range(30):
        breaker.check(rejects(50), 100)
        breaker.note()


def test_a_few_bad_records_on_a_quiet_topic_do_not() -> None:
    Breaker().check(rejects(999), 999)


def test_a_batch_that_is_tried_again_counts_once() -> None:
    breaker = Breaker()
    for _ in range(20):
        breaker.check(rejects(90), 100)
    breaker.note()
    breaker.check([], 900)


def test_what_was_long_ago_is_forgotten() -> None:
    breaker = Breaker()
    breaker.check(rejects(400), 1_000)
    breaker.note()
    breaker.check([], 1_000)
    breaker.note()
    breaker.check(rejects(1_000), 1_000)  # half of the last 2,000
    breaker.note()
    with pytest.raises(Fatal):
        breaker.check(rejects(1), 1)


def test_a_ratio_of_one_never_trips() -> None:
    Breaker(ratio=1).check(rejects(5_000), 5_000)
