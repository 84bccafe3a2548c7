"""Which windows committed batches have changed, until they are published. In memory, bounded, never waited for.

What is lost from here (a crash, too many at once) is found again by the archive: `heal.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from shared.kafka.records import OffsetRange, Partition
from shared.observability import names as metrics
from shared.usage.fold import WindowKey

MOST = 20_000  # windows between two turns: a quarter of a second's work; more are left to healing, at its own pace


class Run(NamedTuple):
    """Offsets [start, end) of one partition, without a gap, whose every window was noted here."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What is to be published now; when it is, `runs` are published too."""

    keys: list[WindowKey]
    runs: dict[Partition, Run]


@dataclass
class Changed:
    """Of one process. A window that changes again before it is published is published once."""

    most: int = MOST
    _keys: dict[WindowKey, None] = field(default_factory=dict, init=False)
    _runs: dict[Partition, Run] = field(default_factory=dict, init=False)

    def note(self, ranges: Sequence[OffsetRange], keys: Iterable[WindowKey]) -> None:
        """After COMMIT: a batch has moved these offsets and changed these windows."""
        for moved in ranges:
            partition = Partition(moved.topic, moved.partition)
            known = self._runs.get(partition)
            start = known.start if known is not None and known.end == moved.start else moved.start
            self._runs[partition] = Run(start, moved.end)
        self._keys.update(dict.fromkeys(keys))
        self._bound()

    def take(self) -> Taken:
        taken = Taken(list(self._keys), dict(self._runs))
        self._keys = {}
        return taken

    def give_back(self, taken: Taken) -> None:
        """It could not be published: the next take has it again."""
        self._keys.update(dict.fromkeys(taken.keys))
        self._bound()

    def _bound(self) -> None:
        """Nothing of a run that is not whole may be taken for published, so the runs begin anew."""
        if len(self._keys) > self.most:
            metrics.WINDOWS_DROPPED.inc(len(self._keys))
            self._keys, self._runs = {}, {}
