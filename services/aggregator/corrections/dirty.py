"""Look again at windows whose minimum, maximum or latest may have been an event that was corrected.

1  one snapshot: the dirty windows of the oldest hour, their marks, and the windows folded again from the archive
   (long, stops nobody); then what has come since, until little is left
2  BEGIN; epoch lock shared; lock these windows, as a batch does; those marked again meanwhile, and those of a
   meter that is being back-filled, wait for the next look
   (every correction that changes such a window marks it, so the others hold what was read in 1 and later events)
3  add what has come since 1: nobody can add to a window while it is locked
4  where count, sum and fingerprint are what the window says, it takes over the extremes; where they are not, archive
   and windows do not agree, and nothing is changed: reconciliation names what differs
5  clean up to the mark of 1           crash before COMMIT: still dirty; after: done
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.aggregator.corrections import dirty_store
from services.aggregator.corrections.store import lock_projects
from services.aggregator.reconcile import store, windows
from services.aggregator.reconcile.rebuild import CATCH_UPS, FEW_RECORDS, refold_windows, terms_of
from services.aggregator.windows.store import queue
from shared.observability import logging
from shared.observability import names as metrics
from shared.postgres import epoch
from shared.postgres.pool import Connection, Database
from shared.runtime.failpoints import failpoint
from shared.usage.fold import WindowKey
from shared.usage.parts import Parts

AT_ONCE = 200  # windows of one transaction, which batches of the same subjects wait for

log = logging.get(__name__)


@dataclass(slots=True)
class Cleaned:
    """What one look did: windows that are clean now, and those that stay dirty."""

    clean: int = 0
    again: int = 0  # marked meanwhile
    differ: int = 0  # archive and window do not agree


async def clean_some(database: Database, topic: str, group: str, skip: int = 0) -> Cleaned | None:
    """The dirty windows of the oldest hour, after the first `skip` windows; None without any. Raises DatabaseAway."""
    async with database.transaction() as connection:
        await store.snapshot(connection)
        marked = await dirty_store.oldest(connection, AT_ONCE, skip)
        if not marked:
            return None
        keys = list(marked)
        terms = await terms_of(connection, keys)
        positions = await store.next_offsets(connection, group, topic)
        base = await refold_windows(connection, topic, terms, set(keys), None)
    parts, damaged = base.parts, base.damaged
    for _ in range(CATCH_UPS):
        async with database.transaction() as connection:
            await store.snapshot(connection)
            next_positions = await store.next_offsets(connection, group, topic)
            since = await refold_windows(connection, topic, terms, set(keys), positions)
        windows.merge(parts, since.parts)
        positions, damaged = next_positions, damaged or since.damaged
        if since.records < FEW_RECORDS:
            break
    await failpoint("aggregator.dirty.after_refold")
    async with database.transaction() as connection:
        await epoch.enter_shared(connection)
        # Corrections change windows in a second run, after those of their batch: their projects' lock keeps the order.
        await lock_projects(connection, {key.project_id for key in keys})
        stored = await dirty_store.lock(connection, keys)
        still = await dirty_store.marks(connection, keys)
        since = await refold_windows(connection, topic, terms, set(keys), positions)
        windows.merge(parts, since.parts)
        unmoved = [key for key in keys if still.get(key) == marked[key] and not terms.is_filling(key)]
        found = await _write(connection, unmoved, stored, parts, damaged or since.damaged, marked)
        found.again = len(keys) - len(unmoved)
        await failpoint("aggregator.dirty.before_commit")
    metrics.DIRTY_WINDOWS_CLEANED.inc(found.clean)
    return found


async def _write(
    connection: Connection,
    keys: Sequence[WindowKey],
    stored: Mapping[WindowKey, Parts],
    archive: Mapping[WindowKey, Parts],
    damaged: str,
    marked: Mapping[WindowKey, int],
) -> Cleaned:
    """Steps 4 and 5."""
    clean: dict[WindowKey, Parts] = {}
    for key in keys:
        there, wanted = stored.get(key, Parts()), archive.get(key, Parts())
        agree = not damaged and (there.count, there.sum, there.fingerprint) == (
            *(wanted.count, wanted.sum, wanted.fingerprint),
        )
        if agree:
            clean[key] = wanted
        else:
            why = damaged or "the archive says otherwise"
            log.error("corrections.window_stays_dirty", window=windows.window_text(key), reason=why)
    await dirty_store.set_extremes(connection, clean)
    await dirty_store.clean(connection, {key: marked[key] for key in clean})
    await queue(connection, list(clean))
    return Cleaned(clean=len(clean), differ=len(keys) - len(clean))
