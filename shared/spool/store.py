"""The spool of one process: durable or an error, many callers in one commit.

Callers meet in a group: whoever appends while the disk is busy, or within 2 ms, shares the next commit and
its fsync. One thread writes, another reads; the event loop never waits for the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from shared.contracts.messages.spool import SpoolState
from shared.domain.errors import Rejected
from shared.kafka.producer import MAX_RECORD_BYTES
from shared.observability import names
from shared.postgres.outbox import OutboxMessage
from shared.spool import places as partition_places
from shared.spool import read, schema
from shared.spool.encoding import Ack, Place
from shared.spool.errors import (
    SpoolBroken,
    SpoolClosed,
    SpoolFailed,
    SpoolFull,
    SpoolNotRegistered,
    SpoolRefused,
    spool_error,
)
from shared.spool.file import Sent, SpoolFile
from shared.spool.guard import Guard
from shared.spool.read import AckedRow, SetAside, StoredBatch
from shared.spool.settings import SpoolSettings

GROUP_WINDOW_S = 0.002
GROUP_BYTES = 4 * 1024 * 1024  # of keys and values: a larger group does not wait for the window
OVERHEAD_BYTES = 16  # per event, for the guard: what a row adds to key and value

T = TypeVar("T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class _Group:
    """What shares the next commit. `failed` tells every caller the same."""

    messages: list[OutboxMessage] = field(default_factory=list)
    bytes: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)
    failed: Exception | None = None


class Spool:
    """Made by `open`; belongs to the event loop that opened it."""

    def __init__(self, settings: SpoolSettings, instance: str, writer: ThreadPoolExecutor, file: SpoolFile) -> None:
        self.settings, self.instance = settings, instance
        self._file, self._writer = file, writer
        self._reader = ThreadPoolExecutor(1, "spool-reader")
        self._read_connection = schema.open_reader(settings.spool_path)
        self._guard = Guard(settings, file.used_bytes, file.log_bytes)
        self._pending, self._in_flight_bytes = _Group(), 0
        self._arrived = asyncio.Event()
        self.appended = asyncio.Event()  # the forwarder clears it before it looks
        self.emptied = asyncio.Event()  # the publisher clears it before it speaks
        self._closing = False
        self._forwarding = False
        self._commits = asyncio.create_task(self._commit_groups())

    @classmethod
    async def open(cls, settings: SpoolSettings, instance: str) -> Spool:
        """Open or make the file and become its one owner.

        Raises Misconfigured (owned by another process, not a spool, damaged), SpoolBroken, SpoolFull. Events
        that a damaged log has lost are counted (`lost_total`) and logged as an error; what is left goes on.
        """
        loop = asyncio.get_running_loop()
        writer = ThreadPoolExecutor(1, "spool-writer")
        try:
            file = await loop.run_in_executor(writer, SpoolFile, settings.spool_path, settings.spool_cap_bytes)
        except BaseException:
            writer.shutdown(wait=False)
            raise
        try:
            return cls(settings, instance, writer, file)
        except BaseException:
            await loop.run_in_executor(writer, file.close)
            writer.shutdown(wait=False)
            raise

    async def close(self) -> None:
        """Finish what was taken, then give the file up. Whoever appends from now on gets SpoolClosed."""
        if self._closing:
            return
        self._closing = True
        self._arrived.set()
        await self._commits
        # The reader first: the last one to close copies the log, and only the writer may do that.
        await self._on(self._reader, self._read_connection.close)
        await self._on(self._writer, self._file.close)
        self._reader.shutdown(wait=False)
        self._writer.shutdown(wait=False)

    @property
    def id(self) -> str:
        return self._file.totals.id

    @property
    def registered_topic(self) -> str | None:
        """Real name of the topic in which Kafka has acknowledged this spool; None before that."""
        return self._file.totals.registered_topic

    @property
    def retired(self) -> bool:
        return self._file.totals.retired_at_us is not None

    @property
    def crowded(self) -> bool:
        """Room is short: rows that may be purged go before their days are over (purge.py)."""
        return self._guard.crowded

    @property
    def unsent_events(self) -> int:
        """As of the last commit; `state` is the exact word."""
        return self._file.totals.unsent_events

    @property
    def sent_below(self) -> int:
        """Every event below this sequence number was acked or set aside."""
        return self._file.totals.sent_below

    async def append(self, messages: Sequence[OutboxMessage]) -> None:
        """Returns once all are on the disk (fsync), in this order.

        Raises SpoolRefused: SpoolFull, SpoolNotRegistered and SpoolClosed before anything is stored,
        SpoolFailed when the commit failed (answer 503; the sender repeats the same ids); SpoolBroken when
        the file can no longer be trusted; Rejected (`too_large`) for what Kafka would never take. A caller
        that is cancelled does not learn the outcome.
        """
        if self._closing:
            raise SpoolClosed(f"the spool {self.settings.spool_path} is closing")
        if self.registered_topic is None or self.retired:
            names.SPOOL_REFUSED.labels("not_registered").inc()
            raise SpoolNotRegistered(
                f"the spool {self.settings.spool_path} accepts nothing before Kafka has acknowledged that it exists "
                "and after it was retired"
            )
        if not messages:
            return
        size = sum([len(m.value or b"") + len(m.key or b"") + OVERHEAD_BYTES for m in messages])
        if any(len(m.value or b"") > MAX_RECORD_BYTES for m in messages):
            raise Rejected("too_large", f"a record may have at most {MAX_RECORD_BYTES} bytes")
        group = self._pending
        try:
            self._guard.admit(size, group.bytes + self._in_flight_bytes)
        except SpoolFull:
            names.SPOOL_REFUSED.labels("full").inc()
            raise
        group.messages.extend(messages)
        group.bytes += size
        self._arrived.set()
        await group.done.wait()
        if group.failed is not None:
            # An error of its own for each caller: one shared by many would collect all their tracebacks.
            kind = type(group.failed) if isinstance(group.failed, SpoolRefused | SpoolBroken) else SpoolFailed
            raise kind(str(group.failed)) from group.failed

    async def _commit_groups(self) -> None:
        while True:
            await self._arrived.wait()
            if self._pending.bytes < GROUP_BYTES and not self._closing:
                await asyncio.sleep(GROUP_WINDOW_S)
            self._arrived.clear()
            group, self._pending = self._pending, _Group()
            if group.messages:
                await self._commit(group)
            if self._closing and not self._pending.messages:
                return

    async def _commit(self, group: _Group) -> None:
        self._in_flight_bytes = group.bytes
        try:
            await self._write(lambda file: file.append(group.messages))
            names.SPOOL_APPENDED.inc(len(group.messages))
            self.appended.set()
        except Exception as error:  # noqa: BLE001 (handed to every caller of the group)
            names.SPOOL_FAILURES.labels("append").inc()
            group.failed = error
        finally:
            self._in_flight_bytes = 0
            group.done.set()
        low = self._guard.low
        await self._on(self._writer, lambda: self._file.checkpoint(low))

    async def unsent(self, from_sequence: int, limit_events: int) -> list[StoredBatch]:
        """Unsent rows from a sequence number on (at least `sent_below`). Raises SpoolBroken."""
        first = max(from_sequence, self.sent_below)
        return await self._read(lambda: read.batches(self._read_connection, first, limit_events))

    async def mark(self, sent: Sequence[Sent]) -> None:
        """Remember the acks of whole rows, in order. Raises SpoolRefused (try again) and SpoolBroken."""
        await self._write(lambda file: file.mark(sent))
        names.SPOOL_FORWARDED.inc(sum(ack is not None for row in sent for ack in row.acks))
        if not self._file.totals.unsent_events:
            self.emptied.set()

    async def failed_attempt(self, error: str) -> None:
        """Count an attempt that Kafka did not acknowledge. Raises SpoolRefused and SpoolBroken."""
        await self._write(lambda file: file.failed_attempt(error))

    async def set_aside(self) -> list[SetAside]:
        """Events that Kafka refuses for good: still unsent."""
        return await self._read(lambda: read.set_aside(self._read_connection))

    async def mark_set_aside(self, event: SetAside, ack: Ack) -> None:
        """One of them is acked after all."""
        await self._write(lambda file: file.mark_set_aside(event.sequence, event.message, ack))
        names.SPOOL_FORWARDED.inc()
        if not self._file.totals.unsent_events:
            self.emptied.set()

    async def places(self, from_sequence: int, limit_rows: int = 100) -> list[tuple[int, list[Place | None]]]:
        """Where Kafka has each event of acked rows: (first sequence, place of each event)."""
        return await self._read(lambda: read.places(self._read_connection, from_sequence, limit_rows))

    async def state(self) -> SpoolState:
        """The spool's word about itself, exact as of `as_of`, and the gauges with it."""
        state = await self._write(self._state)
        names.SPOOL_BYTES.set(state.file_bytes)
        names.SPOOL_CAP_BYTES.set(state.cap_bytes)
        names.SPOOL_UNSENT.set(state.unsent_events)
        names.SPOOL_SET_ASIDE.set(state.set_aside_events)
        names.SPOOL_LOST.set(state.lost_total)
        oldest = state.oldest_unsent_at or state.as_of
        names.SPOOL_OLDEST_SECONDS.set(max(0.0, (state.as_of - oldest).total_seconds()))
        return state

    def _state(self, file: SpoolFile) -> SpoolState:
        """In the writing thread, so between two commits: whatever comes later is stamped at or after `as_of`."""
        as_of_us, totals = file.stamp(), file.totals
        oldest_us = file.oldest_unsent_at_us()
        return SpoolState(
            spool_id=totals.id,
            instance=self.instance,
            as_of=_instant(as_of_us),
            oldest_unsent_at=None if oldest_us is None else _instant(oldest_us),
            unsent_events=totals.unsent_events,
            unsent_bytes=totals.unsent_bytes,
            set_aside_events=totals.set_aside_total,
            accepted_total=totals.accepted_total,
            forwarded_total=totals.forwarded_total,
            lost_total=totals.lost_total,
            fingerprint=(totals.fingerprint_high, totals.fingerprint_low),
            forwarded_fingerprint=(totals.forwarded_high, totals.forwarded_low),
            file_bytes=file.file_bytes,
            cap_bytes=self.settings.spool_cap_bytes,
            retired=totals.retired_at_us is not None and not totals.unsent_events,
        )

    async def remember_registered(self, topic: str) -> None:
        """Kafka has acknowledged this spool in `topic`; from now on it may accept, also after a restart."""
        await self._write(lambda file: file.registered(topic))

    async def retire(self) -> None:
        """Accept nothing from now on. Raises SpoolNotRegistered while something is unsent."""
        await self._write(lambda file: file.retire())

    async def observe(self, positions: Mapping[tuple[str, int], int]) -> partition_places.Held:
        """Remember where the consumers stand; returns partitions whose older acks prove nothing (places.py)."""
        return await self._write(lambda file: file.observe(positions))

    async def release(self, topic: str, partition: int) -> None:
        """A person decides that a re-created or rewound partition is in order again."""
        await self._write(lambda file: file.release(topic, partition))

    async def acked_rows(self, acked_before: datetime, from_sequence: int, limit_rows: int) -> Sequence[AckedRow]:
        """Rows old enough to be purged as far as the age of their ack goes."""
        before_us = _microseconds(acked_before)
        return await self._read(lambda: read.acked_rows(self._read_connection, before_us, from_sequence, limit_rows))

    async def delete(self, first_sequences: Sequence[int], acked_before: datetime) -> int:
        """Delete acked rows (purge.py decides which); returns the number of events."""
        before_us = _microseconds(acked_before)
        return await self._write(lambda file: file.delete(first_sequences, before_us))

    async def give_back(self) -> bool:
        """Return a step of free pages to the disk; True while there are more."""
        return await self._write(lambda file: file.give_back())

    @contextlib.contextmanager
    def forwarding(self) -> Iterator[None]:
        """Held by the one forwarder."""
        assert not self._forwarding, "a spool has one forwarder"
        self._forwarding = True
        try:
            yield
        finally:
            self._forwarding = False

    async def _write(self, work: Callable[[SpoolFile], T]) -> T:
        if self._closing and self._commits.done():
            raise SpoolClosed(f"the spool {self.settings.spool_path} is closed")
        try:
            return await self._on(self._writer, lambda: work(self._file))
        except sqlite3.Error as error:
            raise spool_error(error, self.settings.spool_path) from error
        finally:
            self._guard.used_bytes, self._guard.log_bytes = self._file.used_bytes, self._file.log_bytes

    async def _read(self, work: Callable[[], T]) -> T:
        try:
            return await self._on(self._reader, work)
        except sqlite3.Error as error:
            raise spool_error(error, self.settings.spool_path) from error

    @staticmethod
    async def _on(executor: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(executor, work)


@contextlib.asynccontextmanager
async def opened(settings: SpoolSettings, instance: str) -> AsyncIterator[Spool]:
    """`Spool.open` and `close`."""
    spool = await Spool.open(settings, instance)
    try:
        yield spool
    finally:
        await spool.close()


def _instant(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(microseconds=1)
