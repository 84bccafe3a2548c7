"""The cut and the seal: after them a month's usage is final, and "below the cut" is reproducible for ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.types.json import Jsonb

from shared.domain.errors import Retryable
from shared.domain.period import Month
from shared.postgres import epoch
from shared.postgres.pool import Connection


async def unfinished_meters(connection: Connection) -> list[str]:
    """Meters whose back-fill is not done: their windows lack what was before them."""
    rows = await (
        await connection.execute(
            """
            SELECT meter_id FROM usage.backfill_meter JOIN usage.backfill USING (cut_id)
            WHERE finished_at IS NULL ORDER BY meter_id
            """
        )
    ).fetchall()
    return [row[0] for row in rows]


def still_filling(meters: Sequence[str]) -> str:
    """What whoever wants to seal is told."""
    return (
        f"meter {', '.join(meters)} is new and still counts the events from before it. Nothing was sealed. "
        f"`khata meters backfill wait {meters[0]}` says when that is done; then run the close again"
    )


@dataclass(frozen=True, slots=True)
class Cut:
    """Next offset of every partition of the events topic at one exclusive moment."""

    id: int
    offsets: dict[str, dict[int, int]]

    def below(self, topic: str, partition: int, offset: int) -> bool:
        return offset < self.offsets.get(topic, {}).get(partition, 0)


async def seal(connection: Connection, group: str, topic: str, month: Month, organisations: Sequence[str]) -> Cut:
    """Seal a month of a block of organisations in the caller's transaction; returns the one cut.

    Takes the epoch lock exclusively: no batch is in flight at the cut, every later one sees the seal.
    Organisations that are sealed already keep their seal. Raises DatabaseAway (through the pool) when
    the lock is not free: try the transaction again. Raises Retryable while a window of the month is dirty
    or a new meter is being back-filled.
    """
    version = await epoch.enter_exclusive(connection)
    if meters := await unfinished_meters(connection):
        raise Retryable(still_filling(meters))
    # Under the lock nobody corrects an event, and nobody looks at a window again.
    dirty = await dirty_windows(connection, month, organisations)
    if dirty.windows:
        raise Retryable(f"{dirty.windows} windows of {month} wait to be looked at again after a correction")
    rows = await (
        await connection.execute(
            """
            SELECT partition, next_offset FROM messaging.consumer_offset
            WHERE consumer_group = %s AND topic = %s ORDER BY partition
            """,
            (group, topic),
        )
    ).fetchall()
    offsets = {topic: {int(partition): int(offset) for partition, offset in rows}}
    row = await (
        await connection.execute(
            "INSERT INTO usage.cut (epoch_version, offsets) VALUES (%s, %s) RETURNING id", (version, Jsonb(offsets))
        )
    ).fetchone()
    assert row is not None
    await connection.execute(
        """
        INSERT INTO usage.seal (organisation_id, year, month, cut_id)
        SELECT organisation, %s, %s, %s FROM unnest(%s::text[]) AS organisation
        ON CONFLICT DO NOTHING
        """,
        (month.year, month.month, row[0], list(organisations)),
    )
    return Cut(int(row[0]), offsets)


@dataclass(frozen=True, slots=True)
class Dirty:
    """Windows whose extremes may be those of an event that was corrected, and whose they are."""

    windows: int
    organisations: tuple[str, ...]


async def dirty_windows(connection: Connection, month: Month, organisations: Sequence[str]) -> Dirty:
    """Live ones of this month, in each organisation's time zone."""
    rows = await (
        await connection.execute(
            """
            SELECT organisation.id, count(*) FROM usage.dirty_window
            JOIN catalogue.organisation ON organisation.id = dirty_window.organisation_id
            WHERE cleaned < marks AND live AND organisation_id = ANY(%s)
              AND extract(year FROM hour AT TIME ZONE time_zone) = %s
              AND extract(month FROM hour AT TIME ZONE time_zone) = %s
            GROUP BY organisation.id ORDER BY organisation.id
            """,
            (list(organisations), month.year, month.month),
        )
    ).fetchall()
    return Dirty(sum(count for _, count in rows), tuple(organisation for organisation, _ in rows))


async def cut_of(connection: Connection, organisation_id: str, month: Month) -> Cut | None:
    """The cut under which this month was sealed, None while it is open."""
    row = await (
        await connection.execute(
            """
            SELECT cut.id, cut.offsets FROM usage.seal JOIN usage.cut ON cut.id = seal.cut_id
            WHERE organisation_id = %s AND year = %s AND month = %s
            """,
            (organisation_id, month.year, month.month),
        )
    ).fetchone()
    return None if row is None else cut_from(row[0], row[1])


def cut_from(id: int, offsets: dict[str, dict[str, int]]) -> Cut:
    """As it is stored."""
    return Cut(id, {topic: {int(p): o for p, o in by_partition.items()} for topic, by_partition in offsets.items()})


async def sealed_months(connection: Connection) -> set[tuple[str, Month]]:
    """Every (organisation, month) that is sealed."""
    rows = await (await connection.execute("SELECT organisation_id, year, month FROM usage.seal")).fetchall()
    return {(organisation, Month(year, month)) for organisation, year, month in rows}
