"""The forwarder: spool to Kafka, in order, each event until it is acked.

    1  read unsent rows, in order of sequence
    2  send them, each with the spool's id in a header, and await every ack
                                          crash here and later: they are sent again; identity makes it harmless
    3  mark the rows with (partition, offset) of each event

One slice is in flight at a time, so events of one key keep their order through any failure. Kafka away:
backoff with jitter and smaller slices, for ever; nothing is given up. What Kafka refuses for good (a record
too large for this broker) is set aside alone, stays unsent and so in sight of every close; it is tried
again when the forwarder starts.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from shared.contracts.headers import SPOOL
from shared.domain.errors import BrokerAway, Rejected, Retryable
from shared.observability import logging, names
from shared.postgres.outbox import OutboxMessage
from shared.runtime.failpoints import failpoint
from shared.runtime.pause import first_of
from shared.spool.encoding import Ack
from shared.spool.errors import SpoolClosed, SpoolRefused
from shared.spool.file import Sent
from shared.spool.read import SetAside, StoredBatch
from shared.spool.store import Spool

Send = Callable[[Sequence[OutboxMessage], float], Awaitable[list[Ack]]]
"""`Producer.send`: all in order within the deadline, or BrokerAway, or Rejected."""

SEND_EVENTS = 5_000
SEND_DEADLINE_S = 10.0
DRAIN_DEADLINE_S = 15.0  # of the 25 s a process has: the HTTP server and the last statement come around it
DRAIN_SILENCE_S = 5.0  # a Kafka that has acked nothing for so long is away: what is left waits for the next start
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0  # one small request by one process: no reason to leave a returned Kafka unused for longer

log = logging.get(__name__)


def pause_s(failures: int, jitter: Callable[[], float] = random.random) -> float:
    """Pause after that many failures in a row: doubling, half of it random, so that processes do not march."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 30))
    return longest * (0.5 + 0.5 * jitter())


class Forwarder:
    """One per spool; a second one is a mistake and fails at once."""

    def __init__(
        self, spool: Spool, send: Send, *, send_events: int = SEND_EVENTS, deadline_s: float = SEND_DEADLINE_S
    ) -> None:
        self._spool, self._send = spool, send
        self._most, self._slice, self._deadline_s = send_events, send_events, deadline_s
        self._origin = (SPOOL, spool.id.encode())
        self._failures = 0
        self._aside_due = True
        self._last: dict[tuple[str, int], int] = {}  # highest offset acked per (topic, partition)

    async def run(self, stop: asyncio.Event, drain_s: float = DRAIN_DEADLINE_S, silence_s: float | None = None) -> None:
        """Forward until `stop` is set, then what is left, for at most `drain_s`, or until nothing gets through for
        `silence_s`.

        Raises SpoolBroken. What is unsent at the end stays for the next start.
        """
        with self._spool.forwarding():
            work = asyncio.ensure_future(self._forward_until(stop))
            stopping = asyncio.ensure_future(stop.wait())
            try:
                await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
                await self._drained(work, drain_s, drain_s if silence_s is None else silence_s)
                if work.done():
                    work.result()
                else:
                    log.warning("spool.not_drained", spool=self._spool.id, unsent=self._spool.unsent_events)
            finally:
                for task in (work, stopping):
                    task.cancel()
                await asyncio.wait({work, stopping})

    async def _drained(self, work: asyncio.Future[None], drain_s: float, silence_s: float) -> None:
        """Returns when it is, or time is over."""
        loop = asyncio.get_running_loop()
        end, sent_below = loop.time() + drain_s, -1
        while not work.done() and loop.time() < end and self._spool.sent_below > sent_below:
            sent_below = self._spool.sent_below
            await asyncio.wait({work}, timeout=min(silence_s, end - loop.time()))

    async def _forward_until(self, stop: asyncio.Event) -> None:
        while True:
            self._spool.appended.clear()
            if self._aside_due:
                await self._try_set_aside()
            if await self.forward_once():
                continue
            if stop.is_set():
                return
            await first_of(self._spool.appended, stop)

    async def forward_once(self) -> int:
        """Forward one read's worth of rows, however often it must be tried; returns how many events."""
        rows = await self._spool.unsent(self._spool.sent_below, self._most)
        if not rows:
            return 0
        messages = [message for row in rows for message in row.messages]
        sequences = [sequence for row in rows for sequence in _sequences(row)]
        acks: list[Ack | None] = []
        refused: dict[int, SetAside] = {}
        while len(acks) < len(messages):
            part = messages[len(acks) : len(acks) + self._slice]
            try:
                acks += await self._try(part)
            except Retryable as error:
                await self._away(error)
                continue
            except Rejected as error:
                if len(part) > 1:
                    self._slice = len(part) // 2  # somewhere in here: look closer
                    continue
                sequence = sequences[len(acks)]
                refused[sequence] = SetAside(sequence, error.code, str(error), part[0])
                log.error("spool.set_aside", spool=self._spool.id, sequence=sequence, code=error.code, error=str(error))
                acks.append(None)
            self._slice = min(self._most, self._slice * 2)
        await failpoint("spool.forward.before_mark")
        await self._mark(_rows_sent(rows, acks, refused))
        return len(messages)

    async def _try(self, part: Sequence[OutboxMessage]) -> list[Ack]:
        """Send one slice; the ack of each. Raises Retryable (some may be in the log all the same) and Rejected."""
        await failpoint("spool.forward.before_ack")
        records = [OutboxMessage(one.topic, one.key, one.value, (*one.headers, self._origin)) for one in part]
        acks = await self._send(records, self._deadline_s)
        if not self._plausible(part, acks):
            acks = await self._send(records, self._deadline_s)
            if not self._plausible(part, acks) and any(offset < 0 for _, offset in acks):
                raise BrokerAway("Kafka acknowledged events without telling their offsets")
            # Still smaller than before: the topic itself was made anew. Marking will hold what was acked to the old.
        self._failures = 0
        return acks

    def _plausible(self, part: Sequence[OutboxMessage], acks: Sequence[Ack]) -> bool:
        """True when the offsets of each partition grow, as they must.

        A producer whose batch the broker had already (DuplicateSequenceNumber) reports offsets counted from -1.
        A row marked with such a place could be purged unproven, so the slice is sent once more.
        """
        assert len(acks) == len(part), "every event has an ack of its own"
        last = dict(self._last)
        for message, (partition, offset) in zip(part, acks, strict=True):
            at = (message.topic, partition)
            if offset <= last.get(at, -1):
                self._last = {}
                return False
            last[at] = offset
        self._last = last
        return True

    async def _away(self, error: Retryable) -> None:
        self._failures += 1
        self._slice = max(1, min(self._slice, self._most) // 2)  # what was sent without ack is still on its way
        names.SPOOL_FAILURES.labels("forward").inc()
        if self._failures == 1:
            log.warning("spool.kafka_away", spool=self._spool.id, error=str(error))
        try:
            await self._spool.failed_attempt(str(error))
        except SpoolRefused as refused:  # a full disk does not end the attempts it should be freed by
            log.warning("spool.attempt_not_written", spool=self._spool.id, error=str(refused))
        await asyncio.sleep(pause_s(self._failures))

    async def _mark(self, sent: Sequence[Sent]) -> None:
        """Mark, and while the disk refuses, mark again: sending again would only double what Kafka has."""
        failures = 0
        while True:
            try:
                return await self._spool.mark(sent)
            except SpoolClosed:
                raise
            except SpoolRefused as error:
                failures += 1
                names.SPOOL_FAILURES.labels("mark").inc()
                log.error("spool.not_marked", spool=self._spool.id, error=str(error))
                await asyncio.sleep(pause_s(failures))

    async def _try_set_aside(self) -> None:
        """Once per start: an operator may have raised the broker's limit meanwhile."""
        for event in await self._spool.set_aside():
            try:
                [ack] = await self._try([event.message])
            except Rejected:
                continue
            except Retryable as error:  # what is next in order must not wait for these; they follow its success
                log.warning("spool.set_aside_not_tried", spool=self._spool.id, error=str(error))
                return
            await self._spool.mark_set_aside(event, ack)
        self._aside_due = False


def _sequences(row: StoredBatch) -> range:
    return range(row.first_sequence, row.first_sequence + len(row.messages))


def _rows_sent(rows: Sequence[StoredBatch], acks: Sequence[Ack | None], refused: dict[int, SetAside]) -> list[Sent]:
    sent, begin = [], 0
    for row in rows:
        end = begin + len(row.messages)
        aside = [refused[sequence] for sequence in _sequences(row) if sequence in refused]
        sent.append(Sent(row, acks[begin:end], aside))
        begin = end
    return sent
