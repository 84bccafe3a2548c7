"""How much a key, and all keys of an organisation together, may send.

A limit is events per second and a burst; one event is one unit, whether it turns out right or wrong. Of n live
processes each lets 1/n of it pass. A call passes whole or not at all, and takes from both limits or from neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from msgspec import UNSET

from services.ingest.gcra import Gcra
from services.ingest.http.limit import Allowance
from services.ingest.validate import Sender
from shared.catalogue.cache import CatalogueCache
from shared.contracts.messages.catalogue import Limit
from shared.domain.errors import Rejected
from shared.observability import names as metrics

_SECOND_NS = 1_000_000_000
_FREE = Allowance()


class LiveProcesses(Protocol):
    """How many ingest processes share the limits."""

    def count(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Alone:
    """So many, always: for one process, or a number that the deployment knows."""

    processes: int = 1

    def count(self) -> int:
        return self.processes


@dataclass(slots=True)
class KeyLimits:
    """The buckets of this process, made when a limited key first sends. The `Limits` of the HTTP door."""

    cache: CatalogueCache
    processes: LiveProcesses = field(default_factory=Alone)
    clock_ns: Callable[[], int] = time.monotonic_ns
    _of_key: dict[str, Gcra] = field(default_factory=dict)
    _of_organisation: dict[str, Gcra] = field(default_factory=dict)

    def take(self, sender: Sender, events: int) -> Allowance:
        """Take so many events of the sender's limits, or say how long to wait.

        Raises Rejected (`over_burst`) for a call larger than a burst: it could never pass.
        """
        now = self.clock_ns()
        buckets = self._buckets(sender, now)
        if not buckets:
            return _FREE
        for whose, bucket in buckets:
            if events > bucket.burst:
                text = f"{events} events at once, but the burst of this {whose} is {bucket.burst}: send smaller calls"
                raise Rejected("over_burst", text)
        if len(buckets) == 1:  # nearly always
            wait = buckets[0][1].take(events, now)
        else:
            wait = max(bucket.wait_ns(events, now) for _, bucket in buckets)
            if not wait:
                for _, bucket in buckets:
                    bucket.take(events, now)
        if wait:
            longest = max(buckets, key=lambda each: each[1].wait_ns(events, now))
            metrics.EVENTS_LIMITED.labels(longest[0]).inc(events)
            return Allowance(wait / _SECOND_NS, partial(_headers, buckets, now))
        return Allowance(None, partial(_headers, buckets, now))

    def look(self, sender: Sender) -> Allowance:
        """As `take` of one event, but takes nothing: asked before a body is read, its headers go on any answer."""
        now = self.clock_ns()
        buckets = self._buckets(sender, now)
        if not buckets:
            return _FREE
        wait = 0
        for _, bucket in buckets:  # a generator for `max` would cost more than all the rest
            wait = max(wait, bucket.wait_ns(1, now))
        return Allowance(wait / _SECOND_NS if wait else None, partial(_headers, buckets, now))

    def _buckets(self, sender: Sender, now: int) -> Sequence[tuple[str, Gcra]]:
        """Every bucket a call of the sender takes from, and whose it is."""
        key = self.cache.keys.get(sender.key_id)
        if key is None:
            return ()
        organisation = self.cache.organisations.get(key.organisation_id)
        shared = UNSET if organisation is None else organisation.limit
        if shared is UNSET:
            if key.limit is UNSET:
                return ()
            return (("key", self._bucket(self._of_key, key.id, key.limit, now)),)
        of_all = ("organisation", self._bucket(self._of_organisation, key.organisation_id, shared, now))
        if key.limit is UNSET:
            return (of_all,)
        return (("key", self._bucket(self._of_key, key.id, key.limit, now)), of_all)

    def _bucket(self, buckets: dict[str, Gcra], id: str, limit: Limit, now: int) -> Gcra:
        processes = max(1, self.processes.count())
        found = buckets.get(id)
        if found is None:
            found = buckets[id] = Gcra(limit.per_second, limit.burst, processes)
        elif found.burst != limit.burst or found.per_second != limit.per_second or found.processes != processes:
            found = buckets[id] = found.changed(limit.per_second, limit.burst, processes, now)
        return found


def _headers(buckets: Sequence[tuple[str, Gcra]], now: int) -> dict[str, str]:
    """Of the tightest limit, as this process keeps it (draft-ietf-httpapi-ratelimit-headers-03)."""
    tight = buckets[0][1]
    remaining, full_in_ns = tight.left(now)
    for _, other in buckets[1:]:
        left = other.left(now)
        if left[0] < remaining:
            tight, (remaining, full_in_ns) = other, left
    return {
        "ratelimit-limit": str(tight.share),
        "ratelimit-remaining": str(remaining),
        "ratelimit-reset": str(-(-full_in_ns // _SECOND_NS)),
    }
