"""Kafka first, the spool behind it; while Kafka is away it is asked by one call at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from services.ingest.durable import DurableSender
from shared.domain.errors import BrokerAway
from shared.postgres.outbox import OutboxMessage
from shared.runtime.breaker import Breaker
from shared.spool.errors import SpoolRefused

RECORDS = [OutboxMessage("t", b"k", b"v")]


@dataclass
class Kafka:
    away: bool = True
    asked: int = 0

    async def send(self, messages: Sequence[OutboxMessage], deadline_s: float = 1.0) -> list[tuple[int, int]]:
        self.asked += 1
        if self.away:
            raise BrokerAway("away")
        return [(0, 1)] * len(messages)


@dataclass
class Spool:
    full: bool = False
    taken: list[OutboxMessage] = field(default_factory=list)

    async def append(self, messages: Sequence[OutboxMessage]) -> None:
        if self.full:
            raise SpoolRefused("full")
        self.taken += messages


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def sender(kafka: Kafka, spool: Spool, clock: Clock, **more: Any) -> DurableSender:
    return DurableSender(kafka, cast(Any, spool), breaker=Breaker(clock=clock), **more)


async def test_after_one_failure_the_next_calls_go_to_the_spool_without_asking_kafka() -> None:
    kafka, spool, clock = Kafka(), Spool(), Clock()
    durable = sender(kafka, spool, clock)
    for _ in range(5):
        assert await durable.send(RECORDS) == []
    assert (kafka.asked, len(spool.taken)) == (1, 5)
    clock.now += 60
    kafka.away = False
    assert await durable.send(RECORDS) == [(0, 1)]
    assert await durable.send(RECORDS) == [(0, 1)]
    assert (kafka.asked, len(spool.taken)) == (3, 5)


async def test_spool_first_never_asks_kafka() -> None:
    kafka, spool = Kafka(away=False), Spool()
    assert await sender(kafka, spool, Clock(), always_spool=True).send(RECORDS) == []
    assert (kafka.asked, spool.taken) == (0, RECORDS)


async def test_when_neither_takes_it_nothing_is_claimed() -> None:
    with pytest.raises(BrokerAway, match="neither Kafka nor the spool"):
        await sender(Kafka(), Spool(full=True), Clock()).send(RECORDS)
