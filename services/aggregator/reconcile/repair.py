"""Rebuild windows that differ from the archive. The only way a window changes besides a batch.

    1  refold the wanted windows from the archive, below the positions of one snapshot, and what came meanwhile, until
       little is left (long, stops nobody)
    2  leave alone what cannot be judged: a hole in the archive, a record whose disposition its identity contradicts,
       a meter that is being back-filled
    3  BEGIN; epoch lock exclusive: no batch is in flight; add what the archive has got since 1
    4  a window of a sealed month is left alone: a person decides
    5  write each window, with an audit entry that holds before and after, and enter it to be published
    6  COMMIT                              crash before: nothing happened; after: the next comparison is clean
Windows are written whole, not by a difference, so repairing twice is repairing once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from services.aggregator.reconcile import offset_pass, refold, store, windows
from services.aggregator.reconcile.rebuild import (
    CATCH_UPS,
    FEW_RECORDS,
    Seen,
    is_still,
    refold_windows,
    terms_of,
)
from services.aggregator.reconcile.refold import Terms
from services.aggregator.reconcile.window_pass import is_sealed
from services.aggregator.reconcile.windows import Difference
from services.aggregator.windows import store as published
from shared.audit.append import append
from shared.contracts.topics import USAGE_EVENTS
from shared.domain.errors import DatabaseAway
from shared.postgres import epoch
from shared.postgres.pool import Connection, Database
from shared.runtime.settings import KafkaSettings
from shared.usage.fold import WindowKey
from shared.usage.parts import Parts
from shared.usage.seal import sealed_months

AT_ONCE = 500  # windows of one transaction: batches wait for it
KEYS_AT_ONCE = 10_000
TRIES = 10
PAUSE_S = 0.5
FILLING = "its meter is being back-filled: `khata meters backfill wait` says when that is done"


@dataclass(frozen=True, slots=True)
class Repair:
    """What became of one window: repaired, would be repaired, equal, sealed, refused (and why)."""

    key: WindowKey
    outcome: str
    why: str = ""


@dataclass(slots=True)
class _Base:
    """Steps 1 and 2: the wanted windows below `positions`, and those that cannot be judged."""

    terms: Terms
    positions: dict[int, int]
    parts: dict[WindowKey, Parts]
    refused: dict[WindowKey, str]


async def repair(
    settings: KafkaSettings, database: Database, keys: Sequence[WindowKey], actor: str, *, dry_run: bool
) -> list[Repair]:
    """Rebuild these windows; a dry run does all but step 5. Raises DatabaseAway."""
    topic, group = settings.names.topic(USAGE_EVENTS), settings.names.group("aggregator")
    holes = await offset_pass.whole_archive(database, topic, group)
    if holes.total:
        why = next(iter(holes.kept.values())).text
        return [Repair(key, "refused", f"the archive is not whole: {why}") for key in keys]
    found: list[Repair] = []
    wanted = sorted(set(keys), key=lambda key: (key.hour, key))
    for first in range(0, len(wanted), AT_ONCE):
        found += await _some(database, topic, group, wanted[first : first + AT_ONCE], actor, dry_run)
    return found


async def _some(
    database: Database, topic: str, group: str, keys: list[WindowKey], actor: str, dry_run: bool
) -> list[Repair]:
    attempt = 0
    while True:
        base = await _base(database, topic, group, keys)
        for _ in range(CATCH_UPS):
            if await _catch_up(database, topic, group, base, set(keys)) < FEW_RECORDS:
                break
        try:
            async with database.transaction() as connection:
                return await _under_lock(connection, topic, keys, base, actor, dry_run)
        except DatabaseAway:
            # Whoever wants the lock exclusively gives up first (shared/postgres/epoch.py); or an event was corrected.
            attempt += 1
            if attempt == TRIES:
                raise
            await asyncio.sleep(PAUSE_S)


async def _base(database: Database, topic: str, group: str, keys: list[WindowKey]) -> _Base:
    """Steps 1 and 2."""
    async with database.transaction() as connection:
        await store.snapshot(connection)
        terms = await terms_of(connection, keys)
        positions = await store.next_offsets(connection, group, topic)
        found = await refold_windows(connection, topic, terms, set(keys), None)
        refused = dict.fromkeys(keys, found.damaged) if found.damaged else await _contradicted(connection, found.seen)
        refused |= {key: FILLING for key in keys if terms.is_filling(key)}
        return _Base(terms, positions, found.parts, refused)


async def _catch_up(database: Database, topic: str, group: str, base: _Base, wanted: set[WindowKey]) -> int:
    """Bring the base up to now; how many records that took."""
    async with database.transaction() as connection:
        await store.snapshot(connection)
        positions = await store.next_offsets(connection, group, topic)
        found = await refold_windows(connection, topic, base.terms, wanted, base.positions)
        base.refused |= (
            dict.fromkeys(wanted, found.damaged) if found.damaged else await _contradicted(connection, found.seen)
        )
    windows.merge(base.parts, found.parts)
    base.positions = positions
    return found.records


async def _contradicted(connection: Connection, seen: Sequence[Seen]) -> dict[WindowKey, str]:
    """Windows with a record that identities call a first sighting and the archive does not, or the other way round.

    An identity that is gone says nothing.
    """
    refused = {}
    for first in range(0, len(seen), KEYS_AT_ONCE):
        some = seen[first : first + KEYS_AT_ONCE]
        places = await store.places_of(connection, [one.identity for one in some])
        for one in some:
            place = places.get(one.identity)
            if place is not None and (place == one.place) is refold.is_duplicate(one.letter):
                refused[one.window] = (
                    f"partition {one.place[0]}, offset {one.place[1]}: archive and identities do not agree whether "
                    "this record is the one that counts"
                )
    return refused


async def _under_lock(
    connection: Connection, topic: str, keys: list[WindowKey], base: _Base, actor: str, dry_run: bool
) -> list[Repair]:
    """Steps 3 to 5, in the caller's transaction. Raises DatabaseAway when it has to begin anew."""
    await (store.snapshot(connection) if dry_run else epoch.enter_exclusive(connection))
    if not await is_still(connection, base.terms):
        raise DatabaseAway("events of these windows are being corrected: try again")
    since = await refold_windows(connection, topic, base.terms, set(keys), base.positions)
    windows.merge(base.parts, since.parts)
    sealed = await sealed_months(connection)
    found = []
    for key in keys:
        archive, stored = base.parts.get(key), await store.window(connection, key)
        difference = Difference(key, stored, archive)
        if not difference.parts:
            found.append(Repair(key, "equal"))
        elif is_sealed(key, base.terms, sealed):
            found.append(Repair(key, "sealed", "its month is sealed: a person decides"))
        elif since.damaged or key in base.refused:
            found.append(Repair(key, "refused", since.damaged or base.refused[key]))
        elif dry_run:
            found.append(Repair(key, "would be repaired"))
        else:
            await _write(connection, difference, actor)
            found.append(Repair(key, "repaired"))
    return found


async def _write(connection: Connection, difference: Difference, actor: str) -> None:
    """Step 5 for one window."""
    key, archive = difference.key, difference.archive
    if archive is None:
        await connection.execute("SELECT usage.remove_window(%s, %s, %s, %s, %s, %s, %s)", key[1:])
        await published.queue(connection, [key])
    else:
        await store.set_window(connection, key, archive)
    await append(
        connection,
        actor=actor,
        action="window.repaired",
        object_kind="window",
        object_id=windows.window_text(key),
        organisation_id=key.organisation_id,
        details={
            "differed": difference.parts,
            "before": windows.parts_document(difference.stored),
            "after": windows.parts_document(archive),
        },
    )
