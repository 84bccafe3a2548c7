"""Receipts: this process's own account of what Kafka has acknowledged, published each minute.

Kept beside the sending, not made from the log, so that reconciliation can hold the two against each other. A kill
loses the minute that is not published yet: then the log holds more than the receipts say, which is no finding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from shared.contracts.headers import SPOOL, Headers, first
from shared.contracts.messages.receipt import AckedRange, Receipt, encode_receipt, fingerprint, hash_of_value
from shared.contracts.topics import INGEST_RECEIPTS, Names
from shared.domain.errors import BrokerAway
from shared.kafka.producer import AckedSender
from shared.observability import logging
from shared.postgres.outbox import OutboxMessage
from shared.runtime.pause import pause

SEND_DEADLINE_S = 5.0
LAST_DEADLINE_S = 2.0  # a process that stops has little time left
MINUTE = timedelta(minutes=1)

log = logging.get(__name__)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class _Range:
    first: int
    last: int
    count: int = 0
    hashes: int = 0


@dataclass(slots=True)
class Receipts:
    """The `Witness` of a producer, for one (real) topic; belongs to one event loop."""

    process: str
    topic: str
    clock: Callable[[], datetime] = _now
    _minute: datetime | None = None
    _ranges: dict[tuple[int, Headers], _Range] = field(default_factory=dict)
    _unanswered: int = 0
    _sequence: int = 0
    _unpublished: list[Receipt] = field(default_factory=list)

    def acked(self, messages: Sequence[OutboxMessage], places: Sequence[tuple[int, int]]) -> None:
        """Kafka told the place of each message; (-1, -1) where it told none."""
        self._turn()
        ranges, topic = self._ranges, self.topic
        for message, (partition, offset) in zip(messages, places, strict=True):
            if message.topic != topic:
                continue  # what a spool says of itself
            if offset < 0:
                self._unanswered += 1
                continue
            at = (partition, message.headers)
            found = ranges.get(at)
            if found is None:
                found = ranges[at] = _Range(offset, offset)
            elif offset > found.last:
                found.last = offset
            elif offset < found.first:
                found.first = offset
            found.count += 1
            found.hashes += hash_of_value(message.value or b"")

    async def run(self, sender: AckedSender, names: Names, stop: asyncio.Event) -> None:
        """Publish each minute soon after it is over, until `stop`; what cannot be sent is kept for the next turn."""
        while not stop.is_set():
            now = self.clock()
            await pause(stop, (_minute_of(now) + MINUTE - now).total_seconds())
            self._turn()
            await self._publish(sender, names, SEND_DEADLINE_S)

    async def finish(self, sender: AckedSender, names: Names) -> None:
        """Publish what is left, the running minute too; nothing may be acked afterwards."""
        self._turn()
        if self._sequence or self._ranges or self._unanswered:
            self._close(last=True)
        await self._publish(sender, names, LAST_DEADLINE_S)
        if self._unpublished:
            log.warning("ingest.receipts_lost", receipts=len(self._unpublished), process=self.process)

    def _turn(self) -> None:
        """Close the minute that is over. A clock that jumps back ends a minute as well: nothing is mixed."""
        minute = _minute_of(self.clock())
        if self._minute is None:
            self._minute = minute
        elif minute != self._minute:
            if self._ranges or self._unanswered:
                self._close(last=False)
            self._minute = minute

    def _close(self, *, last: bool) -> None:
        assert self._minute is not None
        self._sequence += 1
        ranges = tuple(
            AckedRange(
                topic=self.topic,
                partition=partition,
                spool=(first(headers, SPOOL) or b"").decode(),
                first_offset=found.first,
                last_offset=found.last,
                count=found.count,
                fingerprint=fingerprint(found.hashes),
            )
            for (partition, headers), found in sorted(self._ranges.items())
        )
        self._unpublished.append(
            Receipt(
                process=self.process,
                sequence=self._sequence,
                minute=self._minute,
                ranges=ranges,
                unanswered=self._unanswered,
                last=last,
            )
        )
        self._ranges, self._unanswered = {}, 0

    async def _publish(self, sender: AckedSender, names: Names, deadline_s: float) -> None:
        """What was sent without an answer is sent again: readers know a receipt by its process and sequence."""
        waiting = list(self._unpublished)
        if not waiting:
            return
        topic, key = names.topic(INGEST_RECEIPTS), self.process.encode()
        try:
            await sender.send([OutboxMessage(topic, key, encode_receipt(each)) for each in waiting], deadline_s)
        except BrokerAway as away:
            log.warning("ingest.receipts_wait", receipts=len(waiting), error=str(away))
            return
        del self._unpublished[: len(waiting)]


def _minute_of(instant: datetime) -> datetime:
    return instant.replace(second=0, microsecond=0)
