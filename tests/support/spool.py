"""Spools of a test: small files, messages with numbers in them, and a log in memory that can be away."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.contracts.messages.spool import SpoolState, decode_spool
from shared.contracts.topics import SPOOLS, Names
from shared.domain.errors import BrokerAway, Rejected
from shared.postgres.outbox import OutboxMessage
from shared.spool.read import StoredBatch
from shared.spool.settings import SpoolSettings
from shared.spool.store import Spool

NAMES = Names()
TOPIC = "usage.events.v1"


def settings(folder: Path, **more: Any) -> SpoolSettings:
    return SpoolSettings(**({"spool_path": folder / "spool.db", "spool_min_free_bytes": 0} | more))


def message(number: int, *, size: int = 0, key: str = "p/alice", topic: str = TOPIC) -> OutboxMessage:
    """Its value is the number and `size` bytes that no compression makes smaller."""
    return OutboxMessage(topic, key.encode(), b"%d|" % number + random.Random(number).randbytes(size), (("h", b"1"),))


def messages(first: int, count: int, **more: Any) -> list[OutboxMessage]:
    return [message(number, **more) for number in range(first, first + count)]


def number(of: OutboxMessage) -> int:
    return int((of.value or b"-1").partition(b"|")[0])


async def registered(settings: SpoolSettings, instance: str = "test") -> Spool:
    """An open spool that may accept."""
    spool = await Spool.open(settings, instance)
    await spool.remember_registered(NAMES.topic(SPOOLS))
    return spool


async def all_unsent(spool: Spool) -> list[StoredBatch]:
    return await spool.unsent(0, 10**9)


async def unsent_numbers(spool: Spool) -> list[int]:
    return [number(message) for row in await all_unsent(spool) for message in row.messages]


@dataclass
class MemoryLog:
    """Stands for `Producer.send`: two partitions by key; `away` calls are not answered, `refuse` is for good."""

    away: int = 0
    refuse: Callable[[OutboxMessage], bool] = lambda _: False
    records: dict[tuple[str, int], list[OutboxMessage]] = field(default_factory=lambda: defaultdict(list))
    calls: list[int] = field(default_factory=list)
    lost_answers: int = 0  # calls that reach the log and are not answered

    async def send(self, part: Sequence[OutboxMessage], deadline_s: float) -> list[tuple[int, int]]:
        self.calls.append(len(part))
        if self.away > 0:
            self.away -= 1
            raise BrokerAway("away")
        if any(self.refuse(message) for message in part):
            raise Rejected("too_large", "refused")
        acks = []
        for message in part:
            partition = (message.key or b"")[-1:][0] % 2
            self.records[message.topic, partition].append(message)
            acks.append((partition, len(self.records[message.topic, partition]) - 1))
        if self.lost_answers > 0:
            self.lost_answers -= 1
            raise BrokerAway("no answer")
        return acks

    def numbers(self, topic: str = TOPIC) -> list[int]:
        return [number(m) for (name, _), log in self.records.items() if name == topic for m in log]

    def statements(self) -> list[SpoolState]:
        return [
            decode_spool(m.value or b"") for (name, _), log in self.records.items() if name == SPOOLS.name for m in log
        ]

    def positions(self) -> dict[tuple[str, int], int]:
        """Of a group that has consumed everything."""
        return {at: len(log) for at, log in self.records.items()}
