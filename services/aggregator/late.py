"""Events of a sealed month whose meters take nothing after the seal (`late: reject`)."""

from __future__ import annotations

from services.aggregator.batch import PreparedBatch, refuse
from services.aggregator.corrections.decide import SEALED, only_sealed
from services.aggregator.corrections.find import places
from shared.domain.errors import Rejected
from shared.domain.period import Month
from shared.postgres.pool import Connection


async def without_late(
    connection: Connection, batch: PreparedBatch, sealed: frozenset[tuple[str, Month]]
) -> PreparedBatch:
    """The batch without those that no meter takes any more: dead letters with code `sealed`, and no identity.

    What was seen before stays: it is a duplicate, however late it comes again. One that some of its meters take stays
    too, and is an adjustment of those.
    """
    if not sealed or not batch.reader.metering.meters.rejecting:
        return batch
    late: dict[int, bytes] = {}
    standing: set[bytes] = set()  # an earlier event of the batch has the identity: whatever comes after is no first one
    for place, event in zip(batch.places, batch.events, strict=True):
        if not (only_sealed(event.readings) and event.live and (event.organisation_id, event.month) in sealed):
            standing.add(event.key)
        elif event.key not in standing:
            late[place] = event.key
    if not late:
        return batch
    seen = await places(connection, set(late.values()))
    return refuse(batch, {place: Rejected("sealed", SEALED) for place, key in late.items() if key not in seen})
