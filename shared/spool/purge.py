"""The purge: a row goes only when three things are true of it.

    1  Kafka acked every event in it, and none is set aside
    2  the consuming group's position in Kafka has passed every (topic, partition, offset) of it; that
       position is committed after Postgres, so what it has passed is stored there
    3  `keep` (7 days) is over since the ack, or the spool is crowded: then the oldest go first, down to half of
       what may be used (a week of an edge's events would otherwise fill it and refuse new ones)

A position that is not known, a topic that was made anew, a group that was rewound: the row is kept
(places.py). Rows are deleted in slices, and the pages they leave go back to the disk step by step, so that
appends never wait for a purge.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from shared.domain.errors import BrokerAway
from shared.observability import names
from shared.runtime.failpoints import failpoint
from shared.runtime.settings import KafkaSettings
from shared.spool.places import passed
from shared.spool.store import Spool

Positions = Callable[[], Awaitable[Mapping[tuple[str, int], int]]]
"""Next offset of the consuming group per (topic, partition), never ahead of Postgres; raises BrokerAway."""

SLICE_ROWS = 200
CROWDED_ROWS = 10  # rows are up to 2 MB: no more goes early than must


@dataclass(frozen=True, slots=True)
class Purged:
    """What one run did. `kept_rows` were old enough, but not proven consumed."""

    events: int
    kept_rows: int


async def purge_once(spool: Spool, positions: Positions, now: datetime, keep: timedelta | None = None) -> Purged:
    """Purge what may go as of `now`. Raises BrokerAway (nothing is known, so nothing is purged), SpoolRefused."""
    known = await positions()
    held = await spool.observe(known)

    async def purge(acked_before: datetime, slice_rows: int, go_on: Callable[[], bool]) -> Purged:
        events = kept = following = 0
        while go_on() and (rows := await spool.acked_rows(acked_before, following, slice_rows)):
            following = rows[-1].first_sequence + 1
            consumed = [row.first_sequence for row in rows if passed(row.places, row.acked_at_us, known, held)]
            kept += len(rows) - len(consumed)
            if consumed:
                await failpoint("spool.purge.before_delete")
                events += await spool.delete(consumed, acked_before)
        return Purged(events, kept)

    old = await purge(now - (spool.settings.keep if keep is None else keep), SLICE_ROWS, lambda: True)
    young = await purge(now, CROWDED_ROWS, lambda: spool.crowded)
    while await spool.give_back():
        pass
    names.SPOOL_PURGED.inc(old.events + young.events)
    return Purged(old.events + young.events, old.kept_rows)


def group_positions(settings: KafkaSettings, group: str) -> Positions:
    """Positions as the group has committed them to Kafka (after Postgres: shared/kafka/consumer.py)."""

    async def read() -> dict[tuple[str, int], int]:
        admin = AIOKafkaAdminClient(**settings.client_arguments(), request_timeout_ms=10_000)
        try:
            await admin.start()
            found = await admin.list_consumer_group_offsets(group)
        except KafkaError as error:
            raise BrokerAway(f"Kafka: {error or type(error).__name__}") from error
        finally:
            await admin.close()
        return {(at.topic, at.partition): entry.offset for at, entry in found.items() if entry.offset >= 0}

    return read
