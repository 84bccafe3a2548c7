"""The one consumer loop. What a group does with a batch is its handler's; when and from where is here.

    1  assigned: pause at once, mark the partitions as not placed (nothing read before step 2 counts)
    2  place: read the stored offsets, compare with the log (`decide_start`), seek, resume
    3  read; drop what is not ours or below our position; a record above it means place again (and LogMoved when
       it stays). After ANY error of a read all partitions are placed again: aiokafka moves the positions of the
       partitions it had drained before the one that failed, and drops their records
       A handler that can prepare has the next batch read and prepared while this one is applied
    4  `handler.apply` makes the effect durable together with the offsets
                                          Retryable: pause, back off, the same batch again; never a dead letter
                                          Fenced: another owner was faster: drop what was read ahead, place again
    5  commit the position to Kafka, while the loop goes on: a hint for lag tools and for the purge of spools, never
       ahead of the store
                                          crash before 5: Kafka lags, the store decides
Revocation waits for the batch in flight (one lock), never for `getmany`. Callback errors are swallowed by
aiokafka, so the callbacks only mark; everything that can fail happens in the loop.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import IllegalStateError, KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError

from shared.domain.errors import BrokerAway, Fatal, Fenced, LogMoved, Retryable
from shared.kafka.committed import Committed
from shared.kafka.offsets import GO_ON, Start, StoredOffset, decide_start
from shared.kafka.records import Batch, OffsetRange, Partition, Record
from shared.kafka.rescue import read_any
from shared.observability import logging, names
from shared.runtime.settings import KafkaSettings

# A static member back within the session keeps its partitions (0.2 s); one dead for good is replaced after it.
SESSION_TIMEOUT_MS = 6_000
HEARTBEAT_MS = 1_500
REBALANCE_TIMEOUT_MS = 10_000
# Longer than any pause between polls: retries poll too (`_wait`).
MAX_POLL_INTERVAL_MS = 60_000
# A topic that is deleted and made anew is found again after this long (the client's own choice is five minutes).
METADATA_MAX_AGE_MS = 30_000
BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 5.0
GIVE_UP_S = 30.0

log = logging.get(__name__)


class Handler(Protocol):
    """What a consumer group is for."""

    async def stored(self, partitions: Sequence[Partition]) -> Mapping[Partition, StoredOffset | None]:
        """Where each partition goes on; None = the log's beginning."""

    async def apply(self, batch: Batch) -> None:
        """Make the whole batch's effect durable, its offsets with it. Raises Retryable, Fenced or Fatal."""


@runtime_checkable
class Preparing(Handler, Protocol):
    """A handler with work that needs no transaction."""

    async def prepare(self, batch: Batch) -> None:
        """Called once before `apply` of the same batch, while an earlier one is applied. Raises Retryable or Fatal."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one batch may hold, and how long to wait for it.

    `max_bytes` of keys and values may be passed where records suddenly grow. In memory are at most the batch that is
    applied, the one that is prepared, and what one fetch brings: `max_bytes` more, compressed.
    """

    max_records: int = 5_000
    wait_ms: int = 200
    max_bytes: int = 16 * 1024 * 1024
    partition_fetch_bytes: int = 4 * 1024 * 1024


PIECE = 500


class ConsumerLoop:
    """One group member. `run` returns when `stop` is set and the batch in flight is done."""

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        group: str,
        instance: str,
        topics: Sequence[str],
        handler: Handler,
        limits: Limits | None = None,
        isolation: str = "read_uncommitted",
        commit_positions: bool = False,
        takes_damaged: bool = False,
    ) -> None:
        """`commit_positions`: the group's offsets live in Kafka, so control records move them too.

        `takes_damaged`: strangers write here, and the handler says what becomes of a record without its headers.
        """
        assert not (commit_positions and isinstance(handler, Preparing)), "positions are then ahead of what is applied"
        self._settings, self._group, self._topics, self._handler = settings, group, tuple(topics), handler
        self._limits = limits or Limits()
        self._commit_positions, self._takes_damaged = commit_positions, takes_damaged
        self._instance = f"{group}.{instance}"
        self._isolation = isolation
        self._positions: dict[Partition, int] = {}  # what is read next
        self._record_bytes = 1_000  # of those read last
        self._ahead: asyncio.Task[_Read] | None = None
        self._committed = Committed(group)
        self._verify: dict[Partition, Start] = {}
        self._gaps: dict[Partition, int] = {}
        self._unplaced: set[Partition] = set()
        self._generation = 0
        self._busy = asyncio.Lock()
        self._assigned_once = asyncio.Event()
        self._failing_since: float | None = None
        self._consumer: AIOKafkaConsumer | None = None

    async def check(self) -> str | None:
        """Readiness: None once partitions were assigned and placed (or none were left for us)."""
        if not self._assigned_once.is_set():
            return "no partitions assigned yet"
        return "partitions are not placed yet" if self._unplaced else None

    async def run(self, stop: asyncio.Event) -> None:
        """Raises Fatal, BrokerAway (no broker at start), or whatever the handler raises as a bug."""
        consumer = self._consumer = AIOKafkaConsumer(
            **self._settings.client_arguments(),
            client_id=self._instance,
            group_id=self._group,
            group_instance_id=self._instance,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=self._isolation,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            rebalance_timeout_ms=REBALANCE_TIMEOUT_MS,
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            fetch_max_bytes=self._limits.max_bytes,
            max_partition_fetch_bytes=self._limits.partition_fetch_bytes,
            fetch_max_wait_ms=self._limits.wait_ms,
            partition_assignment_strategy=[StickyPartitionAssignor],
        )
        consumer.subscribe(self._topics, listener=_Listener(self))
        try:
            await consumer.start()
        except KafkaError as error:
            await consumer.stop()
            raise BrokerAway(f"Kafka at {self._settings.kafka_bootstrap_servers}: {error}") from error
        try:
            while not stop.is_set():
                names.LOOP_SEEN.labels(self._group).set(time.time())
                await self._turn(consumer, stop)
        finally:
            await self._drop_ahead()
            await self._committed.finish(consumer)
            await consumer.stop()

    async def _turn(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> None:
        try:
            ahead, self._ahead = self._ahead, None  # also when it failed: the next read is a new one
            if ahead is not None:
                read = await ahead
            else:
                if self._unplaced:
                    await self._place(consumer)
                read = await self._read(consumer)
        except NoOffsetForPartitionError:
            self._forget(set(self._positions))  # fetched before we had placed it
            return
        except OffsetOutOfRangeError as error:
            raise LogMoved(f"{self._group}: {error.args[0]} is no longer in the log") from error
        except (Retryable, KafkaError) as error:
            self._forget(set(self._positions))
            self._give_up_if_it_stays(error)
            log.warning("consumer.waiting", group=self._group, error=str(error) or type(error).__name__)
            await asyncio.sleep(BACKOFF_FIRST_S * random.uniform(1, 5))  # noqa: S311
            return
        except (UnicodeError, ValueError, TypeError) as error:
            if self._takes_damaged and await self._rescue(consumer, stop):
                return
            places = {f"{p.topic}[{p.partition}]": at for p, at in sorted(self._positions.items())}
            raise Fatal(f"{self._group}: a record at or after {places} cannot be decoded: {error}") from error
        self._failing_since = None
        if read.batch.records:
            if isinstance(self._handler, Preparing) and not self._unplaced:
                self._ahead = asyncio.create_task(self._read(consumer))
            if not await self._apply(consumer, read, stop):
                await self._drop_ahead()
                self._forget(set(self._positions))
                return
        await self._commit(consumer, read.batch)

    async def _read(self, consumer: AIOKafkaConsumer) -> _Read:
        """Step 3, and what can be prepared of it."""
        generation = self._generation
        batch = self._batch_of(await self._fetch(consumer))
        if batch.records and isinstance(self._handler, Preparing):
            try:
                await self._handler.prepare(batch)
            except (ValueError, TypeError) as bug:  # not to be taken for a record that cannot be read
                raise Fatal(f"{self._group}: a batch cannot be prepared: {bug}") from bug
        return _Read(batch, generation)

    async def _fetch(self, consumer: AIOKafkaConsumer) -> Mapping[Partition, Sequence[Record]]:
        """What is there within the limits, in pieces: how large the next records are is only guessed."""
        fetched: dict[Partition, list[Record]] = {}
        records, size, wait_ms = 0, 0, self._limits.wait_ms
        while records < self._limits.max_records and size < self._limits.max_bytes:
            fitting = max(1, (self._limits.max_bytes - size) // self._record_bytes)
            most = min(PIECE, self._limits.max_records - records, fitting)
            piece = await consumer.getmany(timeout_ms=wait_ms, max_records=most)
            if not piece:
                break
            wait_ms = 0
            await asyncio.sleep(0)  # what is buffered is handed out without a pause
            for partition, found in piece.items():
                made = [Record.of(record) for record in found]
                fetched.setdefault(partition, []).extend(made)
                records += len(made)
                size += sum([len(record.value or b"") + len(record.key or b"") for record in made])
            self._record_bytes = max(1, size // records)
        return fetched

    async def _drop_ahead(self) -> None:
        """What was read ahead is not wanted any more; whatever went wrong there is met again by the next read."""
        if self._ahead is not None:
            self._ahead.cancel()
            await asyncio.wait([self._ahead])
            if not self._ahead.cancelled():
                self._ahead.exception()
            self._ahead = None

    async def _rescue(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> bool:
        """Read otherwise the stretch that aiokafka refuses, and apply it; False when no record of it is damaged.

        What is large is read in pieces: a piece without a damaged record is applied, and the next turn goes on.

        aiokafka has moved on in what it had drained before: all partitions are placed again, wherever this ends.
        """
        generation, fetched = self._generation, {}
        try:
            for partition, position in list(self._positions.items()):
                most = (self._limits.max_records, self._limits.partition_fetch_bytes)
                pending = self._verify.get(partition)  # the record before it is still to be looked at
                first = position if pending is None else pending.seek
                records, cut = await read_any(self._settings, self._isolation, partition, first, *most)
                if cut or any(record.damaged for record in records):
                    fetched[partition] = records
                    log.warning("consumer.damaged", group=self._group, partition=str(partition), position=position)
            if not fetched:
                return False
            batch = self._batch_of(fetched)
            if await self._apply(consumer, _Read(batch, generation), stop):
                await self._commit(consumer, batch)
        except Retryable as error:
            self._give_up_if_it_stays(error)
            log.warning("consumer.waiting", group=self._group, error=str(error))
        self._forget(set(self._positions))
        return True

    def _give_up_if_it_stays(self, error: Exception) -> None:
        """aiokafka's coordination ends with its first unexpected error and every later read only repeats it.

        Raises BrokerAway once Kafka has failed without a pause for GIVE_UP_S: the next process starts afresh.
        """
        if not isinstance(error, KafkaError):
            self._failing_since = None  # the store is away: wait for it as long as it takes
            return
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        if now - self._failing_since > GIVE_UP_S:
            raise BrokerAway(f"{self._group} could not read for {GIVE_UP_S:g} s: {error}") from error

    async def _place(self, consumer: AIOKafkaConsumer) -> None:
        """Step 2. Raises LogMoved, Retryable, KafkaError."""
        generation, partitions = self._generation, sorted(self._unplaced)
        stored = await self._handler.stored(partitions)
        starts = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        for partition in partitions:
            name = f"{partition.topic}[{partition.partition}]"
            start = decide_start(name, stored[partition], starts[partition], ends[partition])
            if start.warning:
                log.warning("consumer.start", warning=start.warning)
            if generation != self._generation or partition not in consumer.assignment():
                return  # assigned away meanwhile
            consumer.seek(partition, start.seek)
            self._positions[partition] = start.position
            if start.verify_offset is not None:
                self._verify[partition] = start
            consumer.resume(partition)
            self._unplaced.discard(partition)
        log.info(
            "consumer.placed", group=self._group, partitions={str(p.partition): self._positions[p] for p in partitions}
        )

    def _batch_of(self, fetched: Mapping[Partition, Sequence[Record]]) -> Batch:
        """Step 3: only what follows our position without a gap we did not see."""
        records: list[Record] = []
        ranges: list[OffsetRange] = []
        for partition in sorted(fetched):
            position = self._positions.get(partition)
            if position is None:
                continue
            mine = [record for record in self._verified(partition, fetched[partition]) if record.offset >= position]
            if mine and not self._commit_positions and self._gap(partition, position, mine):
                continue
            if mine:
                records += mine
                end = self._positions[partition] = mine[-1].offset + 1
                ranges.append(OffsetRange(partition.topic, partition.partition, position, end, mine[-1]))
        return Batch(tuple(records), tuple(ranges))

    def _gap(self, partition: Partition, position: int, mine: Sequence[Record]) -> bool:
        """Whether records are missing: our own topics have no transactions and are not compacted, so none may be.

        The partition is placed again; raises LogMoved when the same gap is there twice.
        """
        if mine[-1].offset - position + 1 == len(mine):
            self._gaps.pop(partition, None)
            return False
        if self._gaps.get(partition) == position:
            raise LogMoved(
                f"{partition.topic}[{partition.partition}]: records after {position} are missing from the log; "
                f"the next one read was {mine[0].offset}"
            )
        log.warning("consumer.gap", group=self._group, partition=partition.partition, position=position)
        self._gaps[partition] = position
        self._forget({partition})
        return True

    def _verified(self, partition: Partition, records: Sequence[Record]) -> Sequence[Record]:
        """The first record read after a start must be the last one applied before it."""
        start = self._verify.pop(partition, None) if records else None
        if start is None:
            return records
        first = records[0]
        if first.offset != start.verify_offset or first.digest() != start.verify_digest:
            raise LogMoved(
                f"{partition.topic}[{partition.partition}]: the record at {start.verify_offset} is not the one that "
                f"was applied: the topic was made anew. {GO_ON}"
            )
        return records[1:]

    async def _apply(self, consumer: AIOKafkaConsumer, read: _Read, stop: asyncio.Event) -> bool:
        """Step 4; False when the batch was dropped (fenced, assigned away, or stopping while the store is away)."""
        failures = 0
        while True:
            async with self._busy:
                if read.generation != self._generation:
                    return False
                began = time.perf_counter()
                try:
                    await self._handler.apply(read.batch)
                except Fenced as error:
                    log.warning("consumer.fenced", group=self._group, error=str(error))
                    names.BATCHES.labels(self._group, "fenced").inc()
                    return False
                except Retryable as error:
                    failures += 1
                    names.BATCHES.labels(self._group, "retried").inc()
                    log.warning("consumer.retry", group=self._group, failures=failures, error=str(error))
                else:
                    names.BATCH_SECONDS.labels(self._group).observe(time.perf_counter() - began)
                    names.BATCHES.labels(self._group, "applied").inc()
                    return True
            if stop.is_set():
                return False  # nothing of it is durable; the next start reads it again
            await self._wait(consumer, min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2**failures) * random.uniform(0.5, 1))  # noqa: S311

    async def _wait(self, consumer: AIOKafkaConsumer, seconds: float) -> None:
        """Pause and go on polling, so that the group does not take us for dead."""
        if self._ahead is not None:
            await asyncio.wait([self._ahead])  # two reads at once would share the records out
        paused = tuple(self._positions)
        try:
            consumer.pause(*paused)
            await consumer.getmany(timeout_ms=int(seconds * 1000))
        except KafkaError as error:  # of the group's coordination; nothing was read
            log.warning("consumer.waiting", group=self._group, error=str(error) or type(error).__name__)
            await asyncio.sleep(seconds)
        consumer.resume(*(partition for partition in paused if partition in self._positions))

    async def _commit(self, consumer: AIOKafkaConsumer, batch: Batch) -> None:
        """Step 5."""
        offsets = {Partition(moved.topic, moved.partition): moved.end for moved in batch.ranges}
        if self._commit_positions:
            offsets |= await self._past_control_records(consumer)
        for moved in batch.ranges:
            names.RECORDS_APPLIED.labels(self._group, moved.topic).inc(moved.end - moved.start)
        for partition in self._positions.keys() & consumer.assignment():
            position = offsets.get(partition, self._positions[partition])
            if (end := consumer.highwater(partition)) is not None:
                lag = names.LAG_RECORDS.labels(self._group, partition.topic, str(partition.partition))
                lag.set(max(0, end - position))
        self._committed.note(consumer, offsets)
        if self._commit_positions:
            await self._committed.under_way()

    async def _past_control_records(self, consumer: AIOKafkaConsumer) -> dict[Partition, int]:
        """Positions that moved over commit and abort markers after our last record."""
        moved = {}
        for partition, position in list(self._positions.items()):
            try:
                read_to = await consumer.position(partition)
            except IllegalStateError:
                continue  # assigned away meanwhile
            if read_to > position and self._positions.get(partition) == position:
                moved[partition] = self._positions[partition] = read_to
        return moved

    def _forget(self, partitions: set[Partition]) -> None:
        """Their positions are not to be trusted any more: place them again."""
        for partition in partitions:
            self._positions.pop(partition, None)
            self._verify.pop(partition, None)
        self._unplaced |= partitions

    def assigned(self, partitions: Sequence[Partition]) -> None:
        assert self._consumer is not None
        self._consumer.pause(*partitions)
        self._generation += 1
        self._forget(set(partitions))
        self._assigned_once.set()

    async def revoked(self) -> None:
        async with self._busy:
            self._generation += 1
            self._positions.clear()
            self._verify.clear()
            self._unplaced.clear()


@dataclass(frozen=True, slots=True)
class _Read:
    """`generation`: the assignment under which it was read."""

    batch: Batch
    generation: int


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, loop: ConsumerLoop) -> None:
        self._loop = loop

    async def on_partitions_revoked(self, revoked: Sequence[Partition]) -> None:
        await self._loop.revoked()

    async def on_partitions_assigned(self, assigned: Sequence[Partition]) -> None:
        self._loop.assigned(tuple(assigned))
