"""Wanted windows folded again from the archive, in steps: a long one that stops nobody, then what has come since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

from services.aggregator.reconcile import refold, store, windows
from services.aggregator.reconcile.archive import open_segment
from services.aggregator.reconcile.refold import Terms, Unreadable, events_of
from services.aggregator.reconcile.window_pass import HOUR
from shared.postgres.pool import Connection
from shared.usage import corrected
from shared.usage.backfill import read_views
from shared.usage.event import EventReader
from shared.usage.fold import WindowKey, fold
from shared.usage.metering import read_metering
from shared.usage.parts import Parts

CATCH_UPS = 5
FEW_RECORDS = 20_000  # refolded in a few tenths of a second, which batches can wait


class Seen(NamedTuple):
    """A record of a wanted window: where it stands and what its disposition says."""

    window: WindowKey
    letter: int
    identity: bytes
    place: tuple[int, int]


@dataclass(slots=True)
class Refolded:
    """The wanted windows as the archive says; `damaged` when a part of it cannot be read."""

    parts: dict[WindowKey, Parts] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    records: int = 0
    damaged: str = ""


async def terms_of(connection: Connection, keys: Sequence[WindowKey]) -> Terms:
    """What it takes to fold these windows again, as of the caller's snapshot."""
    organisations = frozenset(key.organisation_id for key in keys)
    start, end = min(key.hour for key in keys), max(key.hour for key in keys) + timedelta(microseconds=1)
    metering = await read_metering(connection)
    return Terms(
        EventReader(metering),
        await store.first_meters(connection),
        organisations,
        start,
        end,
        await corrected.in_windows(connection, sorted(organisations), start, end),
        views=await read_views(connection, metering),
    )


async def is_still(connection: Connection, terms: Terms) -> bool:
    """Whether no event of these hours has been corrected since."""
    return terms.corrected == await corrected.in_windows(
        connection, sorted(terms.organisations), terms.start, terms.end
    )


async def refold_windows(
    connection: Connection, topic: str, terms: Terms, wanted: set[WindowKey], since: dict[int, int] | None
) -> Refolded:
    """`since`: only what stands at these offsets or later."""
    found = Refolded()
    async for row in store.segments_by_time(connection, topic, terms.start, terms.end + HOUR, since=since):
        records, damage = open_segment(row)
        found.records += row.record_count
        if damage is not None:
            found.damaged = damage.text
        for one in events_of(row, records or [], terms, refold.AND_DUPLICATES):
            if isinstance(one, Unreadable):
                found.damaged = one.reason
                continue
            letter, record, event = one
            deltas = {key: delta for key, delta in fold([event]).items() if key in wanted}
            place = (record.partition, record.offset)
            found.seen += [Seen(key, letter, event.key, place) for key in deltas]
            if not refold.is_duplicate(letter):
                windows.merge(found.parts, deltas)
    return found
