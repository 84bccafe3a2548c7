"""Delivery reports of one call: what the caller gets, and what the witness hears whatever becomes of the caller."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.kafka.fast_producer import NO_PLACE, _Reports
from shared.postgres.outbox import OutboxMessage


@dataclass
class Heard:
    places: list[tuple[int, int]] = field(default_factory=list)

    def acked(self, messages: Sequence[OutboxMessage], places: Sequence[tuple[int, int]]) -> None:
        assert len(messages) == len(places)
        self.places += places


@dataclass
class Report:
    at: tuple[int, int]

    def partition(self) -> int:
        return self.at[0]

    def offset(self) -> int:
        return self.at[1]


def reports(count: int) -> tuple[Any, Heard]:
    messages, heard = [OutboxMessage("t", b"k", b"v") for _ in range(count)], Heard()
    return _Reports(messages, asyncio.get_running_loop().create_future(), heard), heard


async def test_the_caller_and_the_witness_get_every_place() -> None:
    made, heard = reports(2)
    made.of(1, None, Report((0, 8)))
    assert not made.done.done()
    made.of(0, None, Report((1, 3)))
    assert await made.done == heard.places == [(1, 3), (0, 8)]


async def test_what_was_acked_before_the_rest_could_not_be_handed_over_is_heard() -> None:
    for told_first in (True, False):
        made, heard = reports(3)
        if told_first:
            made.of(0, None, Report((0, 5)))
        made.only(1)
        if not told_first:
            made.of(0, None, Report((0, 5)))
        assert heard.places == [(0, 5)]
        assert made.done.cancelled()


async def test_offsets_counted_from_below_zero_are_no_places() -> None:
    made, heard = reports(3)
    for place, at in enumerate([(0, -1), (0, 0), (1, 7)]):
        made.of(place, None, Report(at))
    assert heard.places == [NO_PLACE, NO_PLACE, (1, 7)]


async def test_an_ack_that_comes_after_the_deadline_is_heard() -> None:
    made, heard = reports(1)
    made.expire(1.0)
    made.of(0, None, Report((0, 1)))
    assert heard.places == [(0, 1)]
    assert made.done.exception() is not None
