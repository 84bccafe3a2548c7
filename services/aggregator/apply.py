"""Apply one prepared batch: the only place where usage changes.

    1  dead letters of what is no event at all, written and acked
                                           crash here: they are written again; counts are distinct by offset
    2  BEGIN; epoch lock shared; reload what the epoch changed
                                           crash here and later: nothing happened
    3  move the offsets, or Fenced         another owner moved on: drop the batch
       leave out what the archive has (after a rewind); reject what catalogue and meters refuse
    4  identities: fresh, seen, conflicting
    5  fold the fresh into windows; those of a sealed month become adjustments
    6  segments with dispositions, conflicts, rejects to the outbox
    7  COMMIT                              crash after: the batch is done; a replay is fenced by 3

Locks are taken in this order by every writer of these tables: epoch, offset rows by partition,
identities by key, windows by key, the rest (docs/decisions/0004-lock-order.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from services.aggregator.archived import without_archived
from services.aggregator.batch import Decoded, PreparedBatch, prepare
from services.aggregator.generations.filters import Filters
from services.aggregator.generations.store import Generation, generations
from services.aggregator.identity import Claim, claim_identities
from services.aggregator.store import merge_windows, record_adjustments, record_conflicts, store_segments
from shared.domain.errors import DatabaseAway, Rejected
from shared.domain.period import Month
from shared.kafka import dead_letter, offsets
from shared.kafka.dead_letter import Reject
from shared.kafka.offsets import StoredOffset
from shared.kafka.producer import Producer
from shared.kafka.records import Batch, Partition, Record
from shared.observability import names as metrics
from shared.postgres import epoch, outbox
from shared.postgres.pool import Connection, Database, is_lock_timeout
from shared.runtime.failpoints import failpoint
from shared.usage.event import Metering, UsageEvent, check_event
from shared.usage.fold import fold
from shared.usage.metering import read_metering
from shared.usage.seal import sealed_months
from shared.usage.segment import Disposition


@dataclass(frozen=True, slots=True)
class Epoch:
    """What may not change while a batch is applied, as of one version of the epoch."""

    version: int
    metering: Metering
    sealed: frozenset[tuple[str, Month]]
    generations: tuple[Generation, ...]


@dataclass
class Aggregator:
    """Handler of the consumer loop for `usage.events.v1`. One per process."""

    database: Database
    producer: Producer
    group: str
    filters: Filters = field(default_factory=Filters)
    _epoch: Epoch | None = field(default=None, init=False)
    _prepared: PreparedBatch | None = field(default=None, init=False)
    _lock_timeouts: int = field(default=0, init=False)

    async def stored(self, partitions: Sequence[Partition]) -> Mapping[Partition, StoredOffset | None]:
        async with self.database.connection() as connection:
            return await offsets.stored(connection, self.group, partitions)

    async def apply(self, batch: Batch) -> None:
        """Raises DatabaseAway, BrokerAway, Fenced."""
        if self._prepared is None or self._prepared.batch is not batch:
            prepared = prepare(batch)
            await dead_letter.write(self.producer, prepared.malformed, self.group, "aggregator")
            self._prepared = prepared
        try:
            async with self.database.transaction() as connection:
                dispositions = await self._write(connection, self._prepared)
                await failpoint("aggregator.batch.before_commit")
        except DatabaseAway as away:
            await self._after_lock_timeout(away)
            raise
        self._lock_timeouts = 0
        self._prepared = None
        for disposition, count in Counter(dispositions).items():
            metrics.EVENTS_APPLIED.labels(disposition.name.lower()).inc(count)
        await failpoint("aggregator.batch.after_commit")

    async def _after_lock_timeout(self, away: DatabaseAway) -> None:
        """Who waits twice for the epoch lock or its own offset row ends the frozen process that holds it."""
        self._lock_timeouts = self._lock_timeouts + 1 if is_lock_timeout(away) else 0
        if self._lock_timeouts >= 2:
            async with self.database.connection() as connection:
                await epoch.end_stale_holders(connection)

    async def _write(self, connection: Connection, prepared: PreparedBatch) -> list[Disposition]:
        current = await self._enter(connection)
        await offsets.move(connection, self.group, prepared.batch.ranges)
        prepared = await without_archived(connection, prepared)
        events, refused = _check(prepared.decoded, current.metering)
        await failpoint("aggregator.batch.after_offsets")
        seen = await claim_identities(connection, _claims(events), current.generations, self.filters)
        dispositions = _dispositions(len(prepared.batch.records), events, seen, current)
        await merge_windows(connection, fold(_of(events, dispositions, Disposition.COUNTED, Disposition.TEST)))
        await store_segments(connection, prepared.segments, dispositions)
        await record_conflicts(connection, _with_records(events, dispositions, Disposition.CONFLICT))
        await record_adjustments(connection, _with_records(events, dispositions, Disposition.ADJUSTMENT))
        await self._reject(connection, refused)
        return dispositions

    async def _enter(self, connection: Connection) -> Epoch:
        """Take the epoch lock shared and hold what belongs to its version."""
        version = await epoch.enter_shared(connection)
        if self._epoch is None or self._epoch.version != version:
            self._epoch = Epoch(
                version,
                await read_metering(connection),
                frozenset(await sealed_months(connection)),
                await generations(connection),
            )
        return self._epoch

    async def _reject(self, connection: Connection, refused: Sequence[Reject]) -> None:
        now = datetime.now(UTC)
        letters = [dead_letter.letter(reject, self.group, "aggregator", now) for reject in refused]
        await outbox.add(connection, letters)


Checked = tuple[Decoded, UsageEvent]


def _check(decoded: Sequence[Decoded], metering: Metering) -> tuple[list[Checked], list[Reject]]:
    events: list[Checked] = []
    refused: list[Reject] = []
    for one in decoded:
        try:
            events.append((one, check_event(one.event, one.data, metering)))
        except Rejected as error:
            refused.append(Reject(one.record, error))
    return events, refused


def _claims(events: Sequence[Checked]) -> list[Claim]:
    return [
        Claim(one.index, event.key, event.fingerprint, one.record.partition, one.record.offset) for one, event in events
    ]


def _dispositions(
    size: int, events: Sequence[Checked], seen: Mapping[int, Disposition], current: Epoch
) -> list[Disposition]:
    """What became of each record of the batch; whatever is no checked event was rejected."""
    found = [Disposition.REJECTED] * size
    for one, event in events:
        found[one.index] = seen.get(one.index) or _fresh(event, current)
    return found


def _fresh(event: UsageEvent, current: Epoch) -> Disposition:
    if not event.live:
        return Disposition.TEST
    if not event.readings:
        return Disposition.UNMETERED
    if (event.organisation_id, event.month) in current.sealed:
        return Disposition.ADJUSTMENT
    return Disposition.COUNTED


def _of(events: Sequence[Checked], dispositions: Sequence[Disposition], *wanted: Disposition) -> list[UsageEvent]:
    return [event for one, event in events if dispositions[one.index] in wanted]


def _with_records(
    events: Sequence[Checked], dispositions: Sequence[Disposition], wanted: Disposition
) -> list[tuple[Record, UsageEvent]]:
    return [(one.record, event) for one, event in events if dispositions[one.index] is wanted]
