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
    late = {
        place: event.key
        for place, event in zip(batch.places, batch.events, strict=True)
        if only_sealed(event.readings) and event.live and (event.organisation_id, event.month) in sealed
    }
    if not late:
        return batch
    seen = await places(connection, set(late.values()))
    return refuse(batch, {place: Rejected("sealed", SEALED) for place, key in late.items() if key not in seen})
