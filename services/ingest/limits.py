"""How much a key, and all keys of an organisation together, may send.

A limit is events per second and a burst; one event is one unit, whether it turns out right or wrong. Of n live
processes each lets 1/n of it pass. A call passes whole or not at all, and takes from both limits or from neither.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import UNSET, UnsetType

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
        own, shared = self._buckets(sender, now)
        for bucket, whose in ((own, "this key"), (shared, "this organisation")):
            if bucket is not None and events > bucket.burst:
                raise Rejected(
                    "over_burst",
                    f"{events} events at once, but the burst of {whose} is {bucket.burst}: send smaller calls",
                )
        if own is None and shared is None:
            return _FREE
        own_wait = own.wait_ns(events, now) if own else 0
        shared_wait = shared.wait_ns(events, now) if shared else 0
        if own_wait or shared_wait:
            metrics.EVENTS_LIMITED.labels("key" if own_wait >= shared_wait else "organisation").inc(events)
            return Allowance(max(own_wait, shared_wait) / _SECOND_NS, _headers(own, shared, now))
        if own:
            own.take(events, now)
        if shared:
            shared.take(events, now)
        return Allowance(None, _headers(own, shared, now))

    def look(self, sender: Sender) -> Allowance:
        """As `take` of one event, but takes nothing: asked before a body is read, its headers go on any answer."""
        now = self.clock_ns()
        own, shared = self._buckets(sender, now)
        if own is None and shared is None:
            return _FREE
        wait = max(bucket.wait_ns(1, now) if bucket else 0 for bucket in (own, shared))
        return Allowance(wait / _SECOND_NS if wait else None, _headers(own, shared, now))

    def _buckets(self, sender: Sender, now: int) -> tuple[Gcra | None, Gcra | None]:
        key = self.cache.keys.get(sender.key_id)
        if key is None:
            return None, None
        organisation = self.cache.organisations.get(key.organisation_id)
        own = None if key.limit is UNSET else self._bucket(self._of_key, key.id, key.limit, now)
        if organisation is None or organisation.limit is UNSET:
            return own, None
        return own, self._bucket(self._of_organisation, organisation.id, organisation.limit, now)

    def _bucket(self, buckets: dict[str, Gcra], id: str, limit: Limit | UnsetType, now: int) -> Gcra:
        assert limit is not UNSET
        processes = max(1, self.processes.count())
        found = buckets.get(id)
        if found is None:
            found = buckets[id] = Gcra(limit.per_second, limit.burst, processes)
        elif (found.per_second, found.burst, found.processes) != (limit.per_second, limit.burst, processes):
            found = buckets[id] = found.changed(limit.per_second, limit.burst, processes, now)
        return found


def check_limits(limits: KeyLimits, sender: Sender, events: int) -> Allowance:
    """What a door asks for each call once it knows how many events it holds."""
    return limits.take(sender, events)


def limit_headers(limits: KeyLimits, sender: Sender) -> Mapping[str, str]:
    """RateLimit headers of any answer to this sender; none without a limit."""
    return limits.look(sender).headers


def _headers(own: Gcra | None, shared: Gcra | None, now: int) -> dict[str, str]:
    """Of the tighter limit, as this process keeps it (draft-ietf-httpapi-ratelimit-headers-03)."""
    buckets = [bucket for bucket in (own, shared) if bucket is not None]
    tight = min(buckets, key=lambda bucket: bucket.remaining(now))
    return {
        "ratelimit-limit": str(tight.share),
        "ratelimit-remaining": str(tight.remaining(now)),
        "ratelimit-reset": str(math.ceil(tight.full_in_ns(now) / _SECOND_NS)),
    }
