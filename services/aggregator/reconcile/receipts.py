"""Receipts against the log: what Kafka acknowledged to a process must be there. Pure.

A process's records are told apart as the receipt says: header `spool` where there is one, else `ingestid`. Ranges of
one origin that overlap (two producers of one process, acks across a minute) are taken together, because inside the
overlap nobody can say which range a record belongs to.
Fewer records than acknowledged, or as many with another fingerprint: a finding. More are `unanswered`: sent, and the
ack never came or was lost with the process. That is shown and no finding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from services.aggregator.reconcile.finding import Finding, FindingClass
from shared.contracts.headers import SPOOL
from shared.contracts.messages.receipt import Receipt, fingerprint, hash_of_value
from shared.kafka.scan import LogRecord

_MASK64 = 0xFFFF_FFFF_FFFF_FFFF

Origin = tuple[str, str]
"""("spool", id) or ("process", id)."""


class _Writer(msgspec.Struct, gc=False):
    ingestid: str


_writer = msgspec.json.Decoder(_Writer).decode


def origin_of(record: LogRecord) -> Origin:
    """Whose receipt names it; ("process", "") for what no ingest process would have written."""
    for name, value in record.headers:
        if name == SPOOL:
            return ("spool", (value or b"").decode(errors="replace"))
    try:
        return ("process", _writer(record.value or b"").ingestid)
    except (msgspec.MsgspecError, UnicodeError):
        return ("process", "")


@dataclass(slots=True)
class Acked:
    """What the receipts of one origin say of one stretch of one partition, and what the log holds there."""

    origin: Origin
    partition: int
    first_offset: int
    last_offset: int
    count: int
    hashes: int
    receipts: list[str]  # "process#sequence"
    in_log: int = 0
    log_hashes: int = 0


@dataclass(frozen=True, slots=True)
class Told:
    """Receipts read once each; `gaps` names sequence numbers that are missing between two that are there."""

    stretches: tuple[Acked, ...]
    receipts: int
    unanswered: int  # what the processes themselves say was sent and never acknowledged
    gaps: Mapping[str, tuple[int, ...]]


def told(receipts: Iterable[Receipt], topic: str) -> Told:
    """What the receipts say of `topic`. One that is there twice (sent again without an answer) counts once."""
    once = {(receipt.process, receipt.sequence): receipt for receipt in receipts}
    by_place: dict[tuple[Origin, int], list[Acked]] = defaultdict(list)
    sequences: dict[str, list[int]] = defaultdict(list)
    for (process, sequence), receipt in sorted(once.items()):
        sequences[process].append(sequence)
        for each in receipt.ranges:
            if each.topic != topic or each.count <= 0:
                continue
            origin = ("spool", each.spool) if each.spool else ("process", process)
            by_place[origin, each.partition].append(
                Acked(
                    *(origin, each.partition, each.first_offset, each.last_offset, each.count),
                    hashes=int(each.fingerprint, 16),
                    receipts=[f"{process}#{sequence}"],
                )
            )
    stretches = [stretch for ranges in by_place.values() for stretch in _joined(ranges)]
    return Told(
        tuple(sorted(stretches, key=lambda one: (one.partition, one.first_offset, one.origin))),
        len(once),
        sum(receipt.unanswered for receipt in once.values()),
        {process: missing for process, found in sequences.items() if (missing := _missing(found))},
    )


def _joined(ranges: list[Acked]) -> list[Acked]:
    found: list[Acked] = []
    for one in sorted(ranges, key=lambda one: one.first_offset):
        if found and one.first_offset <= found[-1].last_offset:
            before = found[-1]
            before.last_offset = max(before.last_offset, one.last_offset)
            before.count += one.count
            before.hashes = (before.hashes + one.hashes) & _MASK64
            before.receipts += one.receipts
        else:
            found.append(one)
    return found


def _missing(sequence: Sequence[int]) -> tuple[int, ...]:
    there = set(sequence)
    return tuple(number for number in range(min(there), max(there)) if number not in there)


@dataclass(slots=True)
class Tally:
    """Counts the records of one partition, in offset order, into the stretches of their origins."""

    stretches: Sequence[Acked]
    spools: dict[str, int] = field(default_factory=dict)
    unreceipted: int = 0  # in the log, in no receipt's range
    _next: dict[Origin, list[Acked]] = field(init=False)

    def __post_init__(self) -> None:
        self._next = defaultdict(list)
        for one in sorted(self.stretches, key=lambda one: -one.first_offset):
            self._next[one.origin].append(one)  # the last of each list is the next one

    def add(self, records: Iterable[LogRecord]) -> None:
        waiting = self._next
        for record in records:
            origin = origin_of(record)
            if origin[0] == "spool":
                self.spools[origin[1]] = self.spools.get(origin[1], 0) + 1
            mine, offset = waiting.get(origin), record.offset
            while mine and offset > mine[-1].last_offset:
                mine.pop()
            if mine and offset >= mine[-1].first_offset:
                one = mine[-1]
                one.in_log += 1
                one.log_hashes += hash_of_value(record.value or b"")
            else:
                self.unreceipted += 1


def compare(stretch: Acked) -> Finding | None:
    """What is wrong with a stretch that was read from its first to its last offset."""
    name = f"{stretch.origin[0]} {stretch.origin[1]}"
    where = f"partition {stretch.partition}, offsets {stretch.first_offset} to {stretch.last_offset}"
    if stretch.in_log < stretch.count:
        missing = stretch.count - stretch.in_log
        found = FindingClass.RECEIPT_MISSING
        text = f"{missing} of {stretch.count} records that Kafka acknowledged to {name} are not in the log ({where})"
    elif stretch.in_log == stretch.count and (stretch.log_hashes - stretch.hashes) & _MASK64:
        found = FindingClass.RECEIPT_DIFFERS
        text = f"the log holds {stretch.count} records of {name}, but not those that were acknowledged ({where})"
    else:
        return None
    return Finding(
        f"{found.value}:{stretch.origin[0]}:{stretch.origin[1]}:{stretch.partition}:{stretch.first_offset}",
        found,
        text,
        partition=stretch.partition,
        first_offset=stretch.first_offset,
        last_offset=stretch.last_offset,
        details={
            "acknowledged": stretch.count,
            "in_log": stretch.in_log,
            "acknowledged_fingerprint": fingerprint(stretch.hashes),
            "log_fingerprint": fingerprint(stretch.log_hashes),
            "receipts": stretch.receipts[:50],
        },
    )
