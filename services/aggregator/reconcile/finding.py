"""A finding: one difference between two witnesses, with a key under which it is found again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

MOST_KEPT = 5_000  # of one run: who needs more of them has one cause, not five thousand
MOST_NAMED = 20  # ids in one finding


class Check(StrEnum):
    """What is held against what."""

    RECEIPTS = "receipts vs log"
    SPOOLS = "spools vs log"
    ARCHIVE = "log vs archive"
    CONSERVATION = "conservation"
    WINDOWS = "archive vs windows"


class FindingClass(StrEnum):
    """Label of the metric and of the table."""

    RECEIPT_MISSING = "receipt_missing"  # the log holds fewer records than Kafka had acknowledged
    RECEIPT_DIFFERS = "receipt_differs"  # as many, but others
    SPOOL_MISSING = "spool_missing"  # the log holds fewer records of a spool than the spool has forwarded
    SPOOL_LOST = "spool_lost"  # a spool says of itself that it lost accepted events
    ARCHIVE_MISSING = "archive_missing"  # offsets below the stored position that no segment holds
    ARCHIVE_OVERLAP = "archive_overlap"  # offsets that two segments hold
    ARCHIVE_DAMAGED = "archive_damaged"  # a segment that is not what its checksum, count or dispositions say
    ARCHIVE_DIFFERS = "archive_differs"  # a record whose bytes in the archive are not those in the log
    LOG_MISSING = "log_missing"  # a record of the archive that the log should still hold
    CONSERVATION = "conservation"  # numbers of records that must add up and do not
    IDENTITY_MISSING = "identity_missing"  # counted, but its identity is not remembered: a repetition would count too
    IDENTITY_SURPLUS = "identity_surplus"  # remembered, but not counted
    EVENT_UNREADABLE = "event_unreadable"  # counted, but no event under today's catalogue
    WINDOW_MISSING = "window_missing"
    WINDOW_SURPLUS = "window_surplus"
    WINDOW_DIFFERS = "window_differs"
    WINDOW_SEALED = "window_sealed"  # a window of a sealed month that is missing, surplus or differs: a person decides
    ADJUSTMENT_DIFFERS = "adjustment_differs"


CHECK_OF: Mapping[FindingClass, Check] = {
    FindingClass.RECEIPT_MISSING: Check.RECEIPTS,
    FindingClass.RECEIPT_DIFFERS: Check.RECEIPTS,
    FindingClass.SPOOL_MISSING: Check.SPOOLS,
    FindingClass.SPOOL_LOST: Check.SPOOLS,
    FindingClass.ARCHIVE_MISSING: Check.ARCHIVE,
    FindingClass.ARCHIVE_OVERLAP: Check.ARCHIVE,
    FindingClass.ARCHIVE_DAMAGED: Check.ARCHIVE,
    FindingClass.ARCHIVE_DIFFERS: Check.ARCHIVE,
    FindingClass.LOG_MISSING: Check.ARCHIVE,
    FindingClass.CONSERVATION: Check.CONSERVATION,
    FindingClass.IDENTITY_MISSING: Check.CONSERVATION,
    FindingClass.IDENTITY_SURPLUS: Check.CONSERVATION,
    FindingClass.EVENT_UNREADABLE: Check.WINDOWS,
    FindingClass.WINDOW_MISSING: Check.WINDOWS,
    FindingClass.WINDOW_SURPLUS: Check.WINDOWS,
    FindingClass.WINDOW_DIFFERS: Check.WINDOWS,
    FindingClass.WINDOW_SEALED: Check.WINDOWS,
    FindingClass.ADJUSTMENT_DIFFERS: Check.WINDOWS,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """`key` names the difference, not the run. `hour` is a window's; partition and offsets are of usage.events.v1."""

    key: str
    found: FindingClass
    text: str
    organisation_id: str | None = None
    project_id: str | None = None
    meter_id: str | None = None
    hour: datetime | None = None
    partition: int | None = None
    first_offset: int | None = None
    last_offset: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def of_offsets(found: FindingClass, partition: int, first: int, last: int, text: str, **details: Any) -> Finding:
    """A finding about offsets [first, last] of one partition."""
    key = f"{found.value}:{partition}:{first}-{last}"
    return Finding(key, found, text, partition=partition, first_offset=first, last_offset=last, details=details)


@dataclass(slots=True)
class Findings:
    """What one run has found: all are counted, the first MOST_KEPT are kept."""

    kept: dict[str, Finding] = field(default_factory=dict)
    counts: Counter[FindingClass] = field(default_factory=Counter)

    def add(self, finding: Finding) -> None:
        if finding.key in self.kept:
            return
        self.counts[finding.found] += 1
        if len(self.kept) < MOST_KEPT:
            self.kept[finding.key] = finding

    def absorb(self, other: Findings) -> None:
        """All of another's, those that it has counted and not kept too."""
        uncounted = other.counts.copy()
        for finding in other.kept.values():
            self.add(finding)
            uncounted[finding.found] -= 1
        self.counts.update(uncounted)

    @property
    def total(self) -> int:
        return self.counts.total()

    @property
    def all_kept(self) -> bool:
        return self.total == len(self.kept)

    def of(self, check: Check) -> int:
        return sum(count for found, count in self.counts.items() if CHECK_OF[found] is check)
