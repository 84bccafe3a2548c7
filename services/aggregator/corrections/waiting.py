"""Parked corrections whose target came where their batch could not see it.

A target and its correction share a partition, so the batch that brings the target finds what waits for it. Where they
do not (partitions were added, records were written by hand) two batches may pass each other: each has not seen what the
other has not committed. So somebody looks at parked ones again.

    1  a page of them, and which of their targets are known by now
    2  project by project: BEGIN; epoch lock shared; lock the project; settle what still waits
                                           crash: nothing happened
"""

from __future__ import annotations

from services.aggregator.corrections import find, store
from services.aggregator.corrections.find import Originals
from services.aggregator.corrections.of_batch import read_targets, settle_or_park
from services.aggregator.corrections.settle import Terms
from shared.postgres import epoch
from shared.postgres.pool import Database
from shared.runtime.failpoints import failpoint
from shared.usage.event import EventReader
from shared.usage.metering import read_metering
from shared.usage.seal import sealed_months

PAGE = 500
BEGINNING = bytes(16)


async def look_again(database: Database, topic: str, after: bytes = BEGINNING) -> bytes:
    """Settle the next page of those that wait; where the page after it begins. Raises DatabaseAway."""
    originals = Originals()
    async with database.connection() as connection:
        page = await store.parked_after(connection, after, PAGE)
        known = await find.places(connection, {one.correction.target_key for one in page})
        await originals.read(connection, topic, list(known.values()))
    found = [one for one in page if one.correction.target_key in known]
    for project in sorted({one.project_id for one in found}):
        targets = sorted({one.correction.target_key for one in found if one.project_id == project})
        async with database.transaction() as connection:
            await epoch.enter_shared(connection)
            terms = Terms(EventReader(await read_metering(connection)), frozenset(await sealed_months(connection)))
            await store.lock_projects(connection, [project])
            pending = await store.parked(connection, targets)
            read = await read_targets(connection, topic, terms, originals, targets)
            await settle_or_park(connection, terms, read, pending)
            await failpoint("aggregator.waiting.before_commit")
    return page[-1].key if len(page) == PAGE else BEGINNING
