"""One pass over a partition's log beside its archive: receipts are tallied, segments are compared.

Both come in order of offset, so no more is held than one segment and one fetch of the log.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from operator import attrgetter

from services.aggregator.reconcile import store
from services.aggregator.reconcile.archive import Coverage, Run, compare, hole, is_equal, names_of, open_segment
from services.aggregator.reconcile.finding import MOST_NAMED, Finding, FindingClass, Findings, of_offsets
from services.aggregator.reconcile.receipts import Tally
from shared.kafka.records import Partition
from shared.kafka.scan import RECORDS_AT_ONCE, LogRecord, scan
from shared.postgres.pool import Database
from shared.runtime.settings import KafkaSettings

_offset = attrgetter("offset")


@dataclass(frozen=True, slots=True)
class Stretch:
    """What to look at on one partition: the archive in [start, end), the log in [read_from, read_to).

    The log exists in [log_start, log_end); below it retention has been.
    """

    partition: Partition
    start: int
    end: int
    log_start: int
    log_end: int
    read_from: int
    read_to: int

    @property
    def whole_log(self) -> bool:
        """Whether every record that was ever written is read."""
        return self.log_start == self.read_from == 0 and self.read_to >= self.log_end


@dataclass
class _Ahead:
    """The log, read as far as the archive needs it."""

    pieces: AsyncIterator[Sequence[LogRecord]]
    tally: Tally
    told: Callable[[int], None]
    position: int
    _held: list[LogRecord] = field(default_factory=list)

    async def fill(self, end: int) -> None:
        """Read on until [.., end) was read, or the log's end."""
        while self.position < end:
            piece = await anext(self.pieces, None)
            if piece is None:
                return
            self.tally.add(piece)
            self._held += piece
            self.position = piece[-1].offset + 1
            self.told(len(piece))

    def take(self, first: int, last: int) -> list[LogRecord]:
        """Records of [first, last]; what is below `first` is given up."""
        del self._held[: bisect_left(self._held, first, key=_offset)]
        return self._held[: bisect_right(self._held, last, key=_offset)]

    async def drain(self, end: int) -> None:
        self._held.clear()
        while self.position < end:
            before = self.position
            await self.fill(min(end, before + RECORDS_AT_ONCE))
            self._held.clear()
            if self.position == before:
                return


async def compare_partition(
    settings: KafkaSettings,
    database: Database,
    stretch: Stretch,
    tally: Tally,
    group: str,
    told: Callable[[int], None],
) -> tuple[Findings, int]:
    """What is wrong with the archive of one partition, and how many segments were looked at; fills `tally`.

    Raises BrokerAway, DatabaseAway.
    """
    findings, coverage, segments = Findings(), Coverage(stretch.start), 0
    partition = stretch.partition
    known_from = max(stretch.log_start, stretch.read_from)
    async with aclosing(scan(settings, partition, stretch.read_from, stretch.log_end)) as pieces:  # type: ignore[type-var]
        ahead = _Ahead(pieces, tally, told, stretch.read_from)
        async with database.transaction() as connection:
            await store.snapshot(connection)
            async for row in store.segments_by_offset(
                connection, partition.topic, partition.partition, stretch.start, stretch.end
            ):
                segments += 1
                in_log: list[LogRecord] = []
                if row.last_offset >= known_from:
                    await ahead.fill(row.last_offset + 1)
                    in_log = ahead.take(row.first_offset, row.last_offset)
                    if is_equal(row, in_log):
                        coverage.add(row, None)
                        continue
                records, damage = open_segment(row)
                if damage is not None:
                    findings.add(damage)
                coverage.add(row, records)
                if row.last_offset >= known_from:
                    for found in compare(row, records, in_log, known_from):
                        findings.add(found)
        await ahead.drain(stretch.read_to)
    coverage.finish(stretch.end)
    for run in coverage.missing:
        findings.add(await _named_hole(settings, stretch, run, group))
    for first, last in coverage.overlapping:
        text = f"partition {partition.partition}, offsets {first} to {last} are in two segments"
        findings.add(of_offsets(FindingClass.ARCHIVE_OVERLAP, partition.partition, first, last, text))
    return findings, segments


async def _named_hole(settings: KafkaSettings, stretch: Stretch, run: Run, group: str) -> Finding:
    partition = stretch.partition
    found = hole(
        partition.partition,
        run,
        group=group,
        topic=partition.topic,
        log_start=stretch.log_start,
    )
    first = max(run[0], stretch.log_start)
    names: list[str] = []
    async for records in scan(settings, partition, first, min(run[1] + 1, first + MOST_NAMED)):
        names += names_of(records, run)
    return of_offsets(
        found.found,
        partition.partition,
        *run,
        f"{found.text}; in it: {', '.join(names) or 'nothing the log still has'}",
        **found.details,
        events=names,
    )
