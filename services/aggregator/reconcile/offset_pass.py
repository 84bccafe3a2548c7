"""Conservation: below the stored position each record is in the archive once, with one disposition that adds up.

records below the position = counted + duplicates + conflicts + rejected + adjustments + test + unmetered + corrections
identities that point there = first sightings (counted + adjustments + test + unmetered + corrections)
conflicts kept              = dispositions "conflict"
corrections kept            = dispositions "correction"
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from services.aggregator.reconcile import collector, identities, store
from services.aggregator.reconcile.archive import SegmentRow, open_segment
from services.aggregator.reconcile.finding import Finding, FindingClass, Findings, of_offsets
from services.aggregator.reconcile.identities import Block, Sighting, plus, sightings, summed
from shared.postgres.pool import Connection, Database
from shared.usage.segment import Disposition

BLOCK_RECORDS = 100_000
_LETTERS = {ord(each.value): each for each in Disposition}


@dataclass(slots=True)
class Conserved:
    """What became of the records of the offset ranges that were looked at."""

    findings: Findings = field(default_factory=Findings)
    records: int = 0
    dispositions: Counter[Disposition] = field(default_factory=Counter)
    dead_letters: int = 0
    identities: int | None = None  # None: identities of that time may have been given up
    blocks: list[Block] = field(default_factory=list)
    older_hours: set[datetime] = field(default_factory=set)  # UTC hours of first sightings from before the period


async def conserve(
    database: Database,
    topic: str,
    group: str,
    ranges: Mapping[int, tuple[int, int]],
    generations: list[int] | None,
    before: datetime,
    told: Callable[[int], None],
) -> Conserved:
    """`ranges`: [start, end) by partition, below the stored position; `before`: where the period starts.

    Raises DatabaseAway.
    """
    found = Conserved()
    for partition, (start, end) in sorted(ranges.items()):
        if start >= end:
            continue
        async with database.transaction() as connection:
            await store.snapshot(connection)
            with collector.aside():
                await _partition(connection, topic, partition, (start, end), before, found, told)
            # Shown beside the rejected ones; they are kept by another loop, which may be behind.
            found.dead_letters += await store.dead_letters_between(connection, group, topic, partition, start, end)
    if generations is not None and found.blocks:
        async with database.transaction() as connection:
            await store.snapshot(connection)
            await _identities(connection, topic, generations, found)
    return found


async def _partition(
    connection: Connection,
    topic: str,
    partition: int,
    bounds: tuple[int, int],
    before: datetime,
    found: Conserved,
    told: Callable[[int], None],
) -> None:
    start, end = bounds
    letters: Counter[int] = Counter()
    block: Block | None = None
    async for row in store.segments_by_offset(connection, topic, partition, start, end):
        kept, first_sightings = _inside(row, start, end)
        letters.update(kept)
        if block is None or block.last_offset - block.first_offset >= BLOCK_RECORDS:
            block = Block(partition, max(start, row.first_offset), row.last_offset)
            found.blocks.append(block)
        block.last_offset = min(end - 1, max(block.last_offset, row.last_offset))
        block.sums = plus(block.sums, summed(first_sightings))
        found.older_hours.update(_hour(one.time) for one in first_sightings if one.time < before)
        told(len(kept))
    conflicts = await store.conflicts_between(connection, partition, start, end)
    found.records += end - start
    for letter, count in letters.items():
        if letter in _LETTERS:
            found.dispositions[_LETTERS[letter]] += count
    known = sum(count for letter, count in letters.items() if letter in _LETTERS)
    if known != end - start:
        told_apart = ", ".join(f"{letters[letter]} {each.name.lower()}" for letter, each in _LETTERS.items())
        text = (
            f"partition {partition}: {end - start} records from {start} to {end - 1}, the archive accounts for {known}"
        )
        found.findings.add(of_offsets(FindingClass.CONSERVATION, partition, start, end - 1, f"{text} ({told_apart})"))
    corrections = await store.corrections_between(connection, partition, start, end)
    for what, disposition, kept_rows in (
        ("conflicts", Disposition.CONFLICT, conflicts),
        ("corrections", Disposition.CORRECTION, corrections),
    ):
        expected = letters[ord(disposition.value)]
        if kept_rows != expected:
            text = f"partition {partition}: {expected} {what} from {start} to {end - 1}, {kept_rows} of them are kept"
            made = of_offsets(FindingClass.CONSERVATION, partition, start, end - 1, text, **{what: kept_rows})
            found.findings.add(replace(made, key=f"{made.key}:{what}"))


def _hour(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _inside(row: SegmentRow, start: int, end: int) -> tuple[bytes, list[Sighting]]:
    """Dispositions and first sightings of the segment's records in [start, end)."""
    records, _ = open_segment(row)  # what is wrong with it is told by the log pass
    if records is None:
        return row.dispositions, []
    pairs = list(zip(records, row.dispositions, strict=False))
    if row.first_offset < start or row.last_offset >= end:
        pairs = [(record, letter) for record, letter in pairs if start <= record.offset < end]
    letters = bytes(letter for _, letter in pairs)
    return letters, list(sightings([record for record, _ in pairs], letters))


async def _identities(connection: Connection, topic: str, generations: list[int], found: Conserved) -> None:
    stored = dict(await store.identity_sums(connection, generations, found.blocks))
    found.identities = sum(sums.events for sums in stored.values())
    for place, block in enumerate(found.blocks):
        if stored.get(place, identities.Sums()) == block.sums:
            continue
        archive: list[Sighting] = []
        async for row in store.segments_by_offset(
            connection, topic, block.partition, block.first_offset, block.last_offset + 1
        ):
            archive += _inside(row, block.first_offset, block.last_offset + 1)[1]
        kept = await store.identities_of(connection, generations, block)
        for one in identities.differences(block.partition, archive, kept):
            found.findings.add(one)


async def whole_archive(database: Database, topic: str, group: str) -> Findings:
    """Whether the archive goes exactly as far as the group, with as many records as there are offsets.

    From its first record on: what was before that was never read, or is in cold storage.
    """
    findings = Findings()
    async with database.transaction() as connection:
        await store.snapshot(connection)
        positions = await store.next_offsets(connection, group, topic)
        archived = await store.archive_totals(connection, topic)
    for partition, position in sorted(positions.items()):
        first, after, records = archived.get(partition, (position, position, 0))
        if after < position or (after == position and records != position - first):
            text = (
                f"partition {partition}: everything below {position} was applied, the archive goes from {first} to "
                f"{after - 1} with {records} records"
            )
            findings.add(
                Finding(f"conservation:whole:{partition}", FindingClass.CONSERVATION, text, partition=partition)
            )
    return findings
