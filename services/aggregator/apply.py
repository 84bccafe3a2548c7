"""Apply one prepared batch: the only place where usage changes.

    1  read and check every record, compress them (`prepare`; may be done while another batch is applied)
    2  BEGIN; epoch lock shared; what the epoch changed is loaded, and the records read again if it changed meanwhile
                                           crash here and later: nothing happened
    3  move the offsets, or Fenced         another owner moved on: drop the batch
       leave out what the archive has (after a rewind)
       refuse events of sealed months that no meter takes any more (late.py)
       corrections, if there are any: refuse those that their targets' meters do not take (corrections/of_batch.py)
    4  identities: fresh, seen, conflicting
    5  fold the fresh into windows; those of a sealed month become adjustments
    6  segments with dispositions, conflicts; corrections of known targets, others are parked; rejects to the outbox
    7  COMMIT                              crash after: the batch is done; a replay is fenced by 3
    8  tell which windows have changed; they are published beside (windows/publish.py)
                                           crash: the archive tells it again (windows/heal.py)

Locks are taken in this order by every writer of these tables: epoch, offset rows by partition,
identities by key, windows by key, the rest (docs/decisions/0004-lock-order.md).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from services.aggregator.archived import without_archived
from services.aggregator.batch import PreparedBatch, if_fresh, prepare
from services.aggregator.breaker import Breaker
from services.aggregator.corrections import of_batch
from services.aggregator.corrections.find import Originals
from services.aggregator.corrections.settle import Terms
from services.aggregator.generations.filters import Filters
from services.aggregator.generations.store import Generation, generations
from services.aggregator.identity import Claims, claim_identities
from services.aggregator.late import without_late
from services.aggregator.store import merge_windows, record_adjustments, record_conflicts, store_segments
from services.aggregator.windows.changed import Changed
from shared.domain.errors import DatabaseAway
from shared.domain.period import Month
from shared.kafka import dead_letter, offsets
from shared.kafka.dead_letter import Reject
from shared.kafka.offsets import StoredOffset
from shared.kafka.records import Batch, Partition, Record
from shared.observability import names as metrics
from shared.postgres import epoch, outbox
from shared.postgres.pool import Connection, Database, is_lock_timeout
from shared.runtime.failpoints import failpoint
from shared.usage.event import EventReader, UsageEvent
from shared.usage.fold import WindowKey, fold
from shared.usage.metering import read_metering
from shared.usage.seal import sealed_months
from shared.usage.segment import Disposition


@dataclass(frozen=True, slots=True)
class Epoch:
    """What may not change while a batch is applied, as of one version of the epoch."""

    version: int
    reader: EventReader
    sealed: frozenset[tuple[str, Month]]
    generations: tuple[Generation, ...]


@dataclass
class Aggregator:
    """Handler of the consumer loop for `usage.events.v1`. One per process."""

    database: Database
    group: str
    filters: Filters = field(default_factory=Filters)
    breaker: Breaker = field(default_factory=Breaker)
    changed: Changed | None = None  # told after COMMIT which windows are to be published
    _touched: Collection[WindowKey] = field(default=(), init=False)
    _originals: Originals = field(default_factory=Originals, init=False)
    _epoch: Epoch | None = field(default=None, init=False)
    # The batch that is applied, and the one after it.
    _prepared: deque[PreparedBatch] = field(default_factory=lambda: deque(maxlen=2), init=False)
    _lock_timeouts: int = field(default=0, init=False)

    async def stored(self, partitions: Sequence[Partition]) -> Mapping[Partition, StoredOffset | None]:
        async with self.database.connection() as connection:
            return await offsets.stored(connection, self.group, partitions)

    async def prepare(self, batch: Batch) -> None:
        """Step 1. Raises DatabaseAway (the first time only: the catalogue is read)."""
        await self._prepare(batch)

    async def _prepare(self, batch: Batch) -> PreparedBatch:
        if self._epoch is None:
            async with self.database.transaction() as connection:
                await self._enter(connection)
        assert self._epoch is not None
        prepared = await prepare(batch, self._epoch.reader)
        self._prepared.append(prepared)
        return prepared

    async def apply(self, batch: Batch) -> None:
        """All steps, without 1 where `prepare` has done it. Raises DatabaseAway, Fenced, LogMoved."""
        prepared = next((one for one in self._prepared if one.batch is batch), None) or await self._prepare(batch)
        await of_batch.look_ahead(self.database, prepared, self._originals)
        try:
            async with self.database.transaction() as connection:
                dispositions = await self._write(connection, prepared)
                await failpoint("aggregator.batch.before_commit")
        except DatabaseAway as away:
            await self._after_lock_timeout(away)
            raise
        self._lock_timeouts = 0
        self._prepared.remove(prepared)
        self.breaker.note()
        for disposition, count in Counter(dispositions).items():
            metrics.EVENTS_APPLIED.labels(disposition.name.lower()).inc(count)
        await failpoint("aggregator.batch.after_commit")
        if self.changed is not None:
            self.changed.note(batch.ranges, self._touched)

    async def _after_lock_timeout(self, away: DatabaseAway) -> None:
        """Who waits twice for the epoch lock or its own offset row ends the frozen process that holds it."""
        self._lock_timeouts = self._lock_timeouts + 1 if is_lock_timeout(away) else 0
        if self._lock_timeouts >= 2:
            async with self.database.connection() as connection:
                await epoch.end_stale_holders(connection)

    async def _write(self, connection: Connection, prepared: PreparedBatch) -> list[Disposition]:
        current = await self._enter(connection)
        if prepared.reader is not current.reader:
            prepared = await prepare(prepared.batch, current.reader, prepared.segments)
        await offsets.move(connection, self.group, prepared.batch.ranges)
        prepared = await without_archived(connection, prepared)
        self.breaker.check(prepared.rejected, len(prepared.batch.records))
        await failpoint("aggregator.batch.after_offsets")
        prepared = await without_late(connection, prepared, current.sealed)
        terms = Terms(current.reader, current.sealed)
        corrections = await of_batch.begin(connection, terms, prepared, self._originals)
        if corrections is not None:
            prepared = corrections.batch
        seen = await claim_identities(connection, _claims(prepared), current.generations, self.filters)
        dispositions = _dispositions(prepared, seen, current.sealed)
        deltas = fold(_in_windows(prepared, dispositions))
        self._touched = deltas.keys()
        await merge_windows(connection, deltas)
        await store_segments(connection, prepared.segments, dispositions)
        await record_conflicts(connection, _with_records(prepared, dispositions, Disposition.CONFLICT))
        await record_adjustments(connection, _with_records(prepared, dispositions, Disposition.ADJUSTMENT))
        if corrections is not None:
            await corrections.finish(connection, dispositions)
        await self._reject(connection, prepared.rejected)
        return dispositions

    async def _enter(self, connection: Connection) -> Epoch:
        """Take the epoch lock shared and hold what belongs to its version."""
        version = await epoch.enter_shared(connection)
        if self._epoch is None or self._epoch.version != version:
            self._epoch = Epoch(
                version,
                EventReader(await read_metering(connection)),
                frozenset(await sealed_months(connection)),
                await generations(connection),
            )
        return self._epoch

    async def _reject(self, connection: Connection, rejected: Sequence[Reject]) -> None:
        now = datetime.now(UTC)
        letters = [dead_letter.letter(reject, self.group, "aggregator", now) for reject in rejected]
        await outbox.add(connection, letters)


def _claims(prepared: PreparedBatch) -> Claims:
    records = prepared.batch.records
    return Claims(
        [event.key for event in prepared.events],
        np.array([event.fingerprint for event in prepared.events], np.int64),
        np.array([records[place].partition for place in prepared.places], np.int64),
        np.array([records[place].offset for place in prepared.places], np.int64),
    )


def _dispositions(
    prepared: PreparedBatch, seen: Mapping[int, Disposition], sealed: frozenset[tuple[str, Month]]
) -> list[Disposition]:
    """What became of each record of the batch; whatever is no event was rejected."""
    found = [Disposition.REJECTED] * len(prepared.batch.records)
    for place, event in zip(prepared.places, prepared.events, strict=True):
        found[place] = if_fresh(event, sealed)
    for claim, disposition in seen.items():
        found[prepared.places[claim]] = disposition
    return found


IN_WINDOWS = frozenset((Disposition.COUNTED, Disposition.TEST))


def _in_windows(prepared: PreparedBatch, dispositions: Sequence[Disposition]) -> list[UsageEvent]:
    places = zip(prepared.places, prepared.events, strict=True)
    return [event for place, event in places if dispositions[place] in IN_WINDOWS]


def _with_records(
    prepared: PreparedBatch, dispositions: Sequence[Disposition], wanted: Disposition
) -> list[tuple[Record, UsageEvent]]:
    if wanted not in dispositions:
        return []
    places = zip(prepared.places, prepared.events, strict=True)
    return [(prepared.batch.records[place], event) for place, event in places if dispositions[place] is wanted]
