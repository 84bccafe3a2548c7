"""Corrections of one batch: those that it brings, and parked ones whose targets it brings.

    1  before identities are claimed: are there any? Nearly always not, and nothing more is done
       else lock their projects; refuse an amend whose data its target's meters do not take: a dead letter, no identity
    2  after windows, segments and adjustments are written: find the targets of those that are fresh, in the batch or in
       the archive; settle them in log order; park those whose target is not known, or is another subject's
A crash is the batch's: nothing happened, or all of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.aggregator.batch import PreparedBatch, if_fresh, refuse
from services.aggregator.corrections import find, store
from services.aggregator.corrections.decide import SEALED, Pending, Target, amended_readings, only_sealed
from services.aggregator.corrections.find import Originals, Place
from services.aggregator.corrections.settle import Terms, settle
from services.aggregator.reconcile.store import first_meters
from shared.contracts.messages.event import decode_event
from shared.domain.errors import Rejected
from shared.kafka.records import Record
from shared.observability import names as metrics
from shared.postgres.pool import Connection, Database
from shared.usage.backfill import read_views
from shared.usage.event import UsageEvent
from shared.usage.segment import Disposition

UNKNOWN = ("target_unknown", "its target has not come yet")
OTHER_SUBJECT = ("other_subject", "its subject is not that of its target: send it again, as another event, with that")


@dataclass(frozen=True, slots=True)
class Work:
    """What a batch has to do about corrections. `batch`: what may be claimed of it. `waiting`: parked ones whose
    targets it brings, or corrects too: they come first."""

    terms: Terms
    batch: PreparedBatch
    waiting: list[Pending]
    originals: Originals

    async def finish(self, connection: Connection, dispositions: Sequence[Disposition]) -> None:
        """Step 2; `dispositions` of all records of the batch."""
        fresh = [
            pending_of(record, event)
            for record, event, place in _sightings(self.batch)
            if event.correction is not None and dispositions[place] is Disposition.CORRECTION
        ]
        again = await store.known(connection, [one.key for one in fresh]) if fresh else set()
        pending = self.waiting + [one for one in fresh if one.key not in again]
        if not pending:
            return
        here = self._in_batch({one.correction.target_key for one in pending}, dispositions)
        elsewhere = {one.correction.target_key for one in pending} - here.keys()
        targets = here | await read_targets(connection, _topic(self.batch), self.terms, self.originals, elsewhere)
        await settle_or_park(connection, self.terms, targets, pending)

    def _in_batch(self, keys: set[bytes], dispositions: Sequence[Disposition]) -> dict[bytes, Target | Rejected]:
        found: dict[bytes, Target | Rejected] = {}
        for record, event, place in _sightings(self.batch):
            if event.key in keys and dispositions[place] in find.FIRST_SIGHTINGS:
                found[event.key] = find.target_in_batch(record, event, dispositions[place], self.terms.reader.metering)
        return found


def _sightings(batch: PreparedBatch) -> Iterable[tuple[Record, UsageEvent, int]]:
    records = batch.batch.records
    return ((records[place], event, place) for place, event in zip(batch.places, batch.events, strict=True))


def _topic(batch: PreparedBatch) -> str:
    return batch.batch.ranges[0].topic


async def look_ahead(database: Database, batch: PreparedBatch, originals: Originals) -> None:
    """Read the targets of a batch's corrections before its transaction, which then finds them in memory: thousands of
    corrections of old events take apart as many segments, and nobody should wait for a lock meanwhile."""
    targets = {event.correction.target_key for event in batch.events if event.correction is not None}
    if targets:
        originals.begin()
        async with database.connection() as connection:
            places = await find.places(connection, targets)
            await originals.read(connection, _topic(batch), list(places.values()))


async def begin(connection: Connection, terms: Terms, batch: PreparedBatch, originals: Originals) -> Work | None:
    """Step 1, in the batch's transaction, after its offsets have moved. None: nothing to do."""
    mine = [event for event in batch.events if event.correction is not None]
    waiting: list[Pending] = []
    awaited = await store.awaited(connection)
    if awaited is None or awaited:
        corrected = (event.correction.target_key for event in mine if event.correction is not None)
        keys = [key for key in (*(event.key for event in batch.events), *corrected) if not awaited or key in awaited]
        waiting = await store.parked(connection, keys) if keys else []
    if not mine and not waiting:
        return None
    await store.lock_projects(connection, {one.project_id for one in mine} | {one.project_id for one in waiting})
    if waiting:  # somebody may have settled them while we waited for the lock
        waiting = await store.parked(connection, [one.correction.target_key for one in waiting])
    return Work(
        terms, await _without_refused(connection, terms, batch, originals) if mine else batch, waiting, originals
    )


async def _without_refused(
    connection: Connection, terms: Terms, batch: PreparedBatch, originals: Originals
) -> PreparedBatch:
    """Without amends that their known targets' meters do not take, unless they have come before."""
    amends = [(place, event) for _, event, place in _sightings(batch) if event.correction and event.correction.data]
    wanted = {event.correction.target_key for _, event in amends if event.correction}
    standing = await find.places(connection, wanted | {event.key for _, event in amends})
    stored = {key: place for key, place in standing.items() if key in wanted}
    targets = _first_in_batch(terms, batch, wanted) | await _read(connection, _topic(batch), terms, originals, stored)
    refused: dict[int, Rejected] = {}
    for place, event in amends:
        target = targets.get(event.correction.target_key) if event.correction else None
        if event.key in standing or not isinstance(target, Target):
            continue
        try:
            _check(target, event, terms)
        except Rejected as error:
            refused[place] = error
    return refuse(batch, refused)


def _check(target: Target, event: UsageEvent, terms: Terms) -> None:
    """Raises Rejected when its target can never take this amend."""
    assert event.correction is not None
    assert event.correction.data is not None
    correctable = target.disposition is not Disposition.CORRECTION and not target.uncounted
    if not correctable or target.event.subject != event.subject:
        return  # refused or parked later, where people see it
    readings = amended_readings(target, event.correction.data, terms.reader)
    if target.event.live and terms.is_sealed(target) and only_sealed((*target.event.readings, *readings)):
        raise Rejected("sealed", SEALED)


def _first_in_batch(terms: Terms, batch: PreparedBatch, wanted: set[bytes]) -> dict[bytes, Target | Rejected]:
    """As if they were fresh: the first of an identity is, unless it is known already."""
    found: dict[bytes, Target | Rejected] = {}
    for record, event, _ in _sightings(batch):
        if event.key in wanted and event.key not in found:
            found[event.key] = find.target_in_batch(record, event, if_fresh(event, ()), terms.reader.metering)
    return found


def pending_of(record: Record, event: UsageEvent) -> Pending:
    assert event.correction is not None
    sent = decode_event(record.value or b"")
    return Pending(
        key=event.key,
        correction=event.correction,
        organisation_id=event.organisation_id,
        project_id=event.project_id,
        live=event.live,
        subject=event.subject,
        event_id=event.id,
        partition=record.partition,
        offset=record.offset,
        source=sent.source,
        key_id=sent.keyid,
    )


async def read_targets(
    connection: Connection, topic: str, terms: Terms, originals: Originals, keys: Collection[bytes]
) -> dict[bytes, Target | Rejected]:
    """From the archive; those whose identity is not known are not there."""
    return await _read(connection, topic, terms, originals, await find.places(connection, keys))


async def _read(
    connection: Connection, topic: str, terms: Terms, originals: Originals, places: Mapping[bytes, Place]
) -> dict[bytes, Target | Rejected]:
    if not places:
        return {}
    read = await originals.read(connection, topic, list(places.values()))
    first_made = await first_meters(connection)
    views = await read_views(connection, terms.reader.metering, terms.reader)
    found: dict[bytes, Target | Rejected] = {}
    for key, place in places.items():
        try:
            found[key] = find.target_of(read[place], views, first_made)
        except Rejected as error:
            found[key] = error
    return found


async def settle_or_park(
    connection: Connection, terms: Terms, targets: Mapping[bytes, Target | Rejected], pending: Sequence[Pending]
) -> None:
    """Settle those that find their target, park the others."""
    ready: list[Pending] = []
    waiting: list[tuple[Pending, store.Parking]] = []
    for one in pending:
        target = targets.get(one.correction.target_key)
        if target is None:
            if not one.stored:
                waiting.append((one, UNKNOWN))
        elif isinstance(target, Target) and target.event.subject != one.subject:
            waiting.append((one, OTHER_SUBJECT))
        else:
            ready.append(one)
    await store.park(connection, waiting)
    metrics.CORRECTIONS.labels("parked").inc(sum(not one.stored for one, _ in waiting))
    if ready:
        await settle(connection, terms, targets, ready)
