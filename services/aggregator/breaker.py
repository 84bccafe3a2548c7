"""The breaker: where most of what comes is rejected, something else is wrong than the events.

A catalogue that lost its meters, a producer of another format: a process that went on would turn the log into dead
letters at full speed. It stops before the batch that trips it is written; nothing is lost, the log waits. What it has
seen is in memory: where fewer than so many records wait, a process that is started again and again writes those
as dead letters, which can be redriven.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.domain.errors import Fatal
from shared.kafka.dead_letter import Reject


@dataclass
class Breaker:
    """`ratio` of the last records, `least` of them or more, that may be rejected; 1 never trips."""

    ratio: float = 0.5
    least: int = 1_000
    _batches: deque[tuple[int, int]] = field(default_factory=deque, init=False)  # (rejected, records)
    _checked: tuple[int, int] = field(default=(0, 0), init=False)

    def check(self, rejected: Sequence[Reject], records: int) -> None:
        """Before a batch is written. Raises Fatal when it would trip."""
        self._checked = len(rejected), records
        bad = len(rejected) + sum(one for one, _ in self._batches)
        seen = records + sum(one for _, one in self._batches)
        if seen < self.least or bad <= self.ratio * seen:
            return
        last = rejected[-1].error if rejected else None
        raise Fatal(
            f"{bad} of the last {seen} records were rejected, the last one because of {last and last.code}: "
            f"{last and last.message}. Nothing of this batch was written. Look at the catalogue and at "
            "`khata dead-letters list`; if they are to be rejected, start with AGGREGATOR_BREAKER_RATIO=1"
        )

    def note(self) -> None:
        """The batch that was checked last is written."""
        self._batches.append(self._checked)
        while sum(one for _, one in self._batches) - self._batches[0][1] >= self.least:
            self._batches.popleft()
