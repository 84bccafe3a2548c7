"""The filters that this process has in hand. Those it has not cost index probes, never correctness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from services.aggregator.generations import files
from services.aggregator.generations.bloom import Bloom
from services.aggregator.generations.files import NoFilter
from services.aggregator.generations.store import Generation
from shared.observability import logging
from shared.observability import names as metrics

log = logging.get(__name__)


class Filters:
    """Filters by generation, in one folder; without a folder there are none."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._held: dict[Generation, Bloom] = {}
        self._told: set[tuple[Generation, NoFilter]] = set()

    def of(self, generation: Generation) -> Bloom | None:
        """The filter over exactly these keys: its id, count and fingerprint are those that the batch has read."""
        return self._held.get(generation)

    def look(self, generations: Sequence[Generation]) -> list[Generation]:
        """Take up what has come into the folder, let go what is no generation any more; returns those without one.

        Reads each new file once as a whole: call it in a thread.
        """
        counted = [one for one in generations if one.keys is not None]
        held = {one: bloom for one in counted if (bloom := self._held.get(one) or self._read(one)) is not None}
        self._held = held
        return [one for one in counted if one not in held]

    def take_up(self, generation: Generation) -> None:
        """One that was just built."""
        bloom = self._read(generation)
        if bloom is not None:
            self._held = self._held | {generation: bloom}

    def _read(self, generation: Generation) -> Bloom | None:
        found = NoFilter.MISSING if self.folder is None else files.read(self.folder, generation)
        if isinstance(found, Bloom):
            self._told = {told for told in self._told if told[0] != generation}
            return found
        if found is not NoFilter.MISSING and (generation, found) not in self._told:
            self._told.add((generation, found))
            metrics.IDENTITY_FILTERS_IGNORED.labels(found.value).inc()
            log.warning("identity.filter_ignored", generation=generation.id, reason=found.value)
        return None
