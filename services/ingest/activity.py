"""Who uses a key, and how: counted per call, told to `keys.activity.v1` once a minute and on stop.

Advice, never money: counting holds up no call and fails none. Per minute there is one entry per key of the catalogue
that was used, one per project of the Kafka door, and one, `unknown`, for all calls whose key nobody knows, so
what a stranger sends takes no memory. While Kafka is away the newest MOST_PENDING entries wait, the oldest go
(metric). A crash loses the minute that was not published.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from services.ingest.addresses import Addresses
from services.ingest.validate import Sender
from shared.catalogue import keys
from shared.catalogue.cache import CatalogueCache
from shared.contracts.messages.activity import DOOR_PREFIX, MOST_ADDRESSES, UNKNOWN, KeyActivity, encode_activity
from shared.contracts.messages.anomaly import instant
from shared.contracts.topics import KEYS_ACTIVITY, Names
from shared.domain.errors import BrokerAway, Rejected
from shared.kafka.producer import AckedSender
from shared.observability import logging
from shared.observability import names as metrics
from shared.postgres.outbox import OutboxMessage
from shared.runtime.pause import pause
from shared.runtime.problems import Problem

COUNTED_ADDRESSES = 1024  # distinct ones of a key and minute; more are as many
MOST_PENDING = 20_000  # entries of ended minutes that Kafka has not taken: about 20 MB
SEND_AT_ONCE = 500
LAST_DEADLINE_S = 3.0  # on stop
ACCEPTED, FAILED = 202, 400

log = logging.get(__name__)


@dataclass(slots=True)
class _Entry:
    """One key in the minute that runs."""

    project_id: str | None
    organisation_id: str | None
    calls: int = 0
    accepted: int = 0
    rejected: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    addresses: dict[str, None] = field(default_factory=dict)  # in order of appearance

    def saw(self, address: str) -> None:
        if len(self.addresses) < COUNTED_ADDRESSES:
            self.addresses[address] = None

    def message(self, key_id: str, minute: int, process_id: str) -> KeyActivity:
        return KeyActivity(
            minute=instant(minute),
            key_id=key_id,
            process_id=process_id,
            project_id=self.project_id,
            organisation_id=self.organisation_id,
            calls=self.calls,
            accepted=self.accepted,
            rejected=self.rejected,
            failed=self.failed,
            addresses=tuple(self.addresses)[:MOST_ADDRESSES],
            address_count=len(self.addresses),
            addresses_overflow=len(self.addresses) > MOST_ADDRESSES,
        )


@dataclass(slots=True)
class Activity:
    """Of one process. `process_id` is its ingest id; `clock` gives seconds since the epoch."""

    cache: CatalogueCache
    addresses: Addresses
    process_id: str
    clock: Callable[[], float] = time.time
    _minute: int = 0
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _pending: deque[KeyActivity] = field(default_factory=deque)

    def called(self, request: Request, response: Response) -> None:
        """One call of the HTTP door is answered; `request.state` has the `sender` and the `verdict` it came to."""
        sender: Sender | None = getattr(request.state, "sender", None)
        key_id = self._key_of(request) if sender is None else sender.key_id
        entry = self._entry(key_id)
        entry.calls += 1
        if sender is not None or key_id == UNKNOWN:  # who has a key's id alone is none of its clients
            entry.saw(self.addresses.of(request))
        if response.status_code >= FAILED:
            code = response.code if isinstance(response, Problem) else str(response.status_code)
            entry.failed[code] = entry.failed.get(code, 0) + 1
        verdict = getattr(request.state, "verdict", None)
        if verdict is None:
            return
        if response.status_code == ACCEPTED:
            entry.accepted += len(verdict.accepted)
        if response.status_code == ACCEPTED or (response.status_code >= FAILED and not verdict.accepted):
            entry.rejected += len(verdict.errors)

    def over_kafka(self, accepted: Iterable[str], rejected: Iterable[str | None]) -> None:
        """The project of each event that the Kafka door has forwarded or refused; None: of no project's own topic."""
        for project, events in Counter(accepted).items():
            self._entry(DOOR_PREFIX + project, project).accepted += events
        for named, events in Counter(rejected).items():
            self._entry(UNKNOWN if named is None else DOOR_PREFIX + named, named).rejected += events

    def _key_of(self, request: Request) -> str:
        """Of a call that was not let in: the key it names, when there is such a key."""
        try:
            parsed = keys.parse((request.headers.get("authorization") or "").partition(" ")[2].strip())
        except Rejected:
            return UNKNOWN
        return parsed.id if parsed.id in self.cache.keys else UNKNOWN

    def _entry(self, key_id: str, project: str | None = None) -> _Entry:
        minute = int(self.clock() // 60)
        if minute != self._minute:
            self._roll(minute)
        entry = self._entries.get(key_id)
        if entry is None:
            key = self.cache.keys.get(key_id)
            project = project if key is None else key.project_id
            of = self.cache.projects.get(project or "")
            entry = self._entries[key_id] = _Entry(project, of.organisation_id if of else None)
        return entry

    def _roll(self, minute: int) -> None:
        """The minute is over: its entries wait to be published, and when too many do, the oldest go."""
        self._pending.extend(entry.message(id, self._minute, self.process_id) for id, entry in self._entries.items())
        self._entries = {}
        self._minute = minute
        while len(self._pending) > MOST_PENDING:
            self._pending.popleft()
            metrics.KEY_ACTIVITY_DROPPED.inc()

    async def publish(self, sender: AckedSender, names: Names) -> None:
        """Send the minutes that are over. What Kafka does not acknowledge waits for the next time. Raises BrokerAway.

        Sent and not acknowledged may be in the log all the same: it is sent again, and says the same.
        """
        self._roll_if_over()
        topic = names.topic(KEYS_ACTIVITY)
        while self._pending:
            some = [self._pending[place] for place in range(min(SEND_AT_ONCE, len(self._pending)))]
            await sender.send([OutboxMessage(topic, one.key_id.encode(), encode_activity(one)) for one in some])
            for one in some:
                if self._pending and self._pending[0] is one:  # else it was dropped meanwhile
                    self._pending.popleft()

    async def run(self, sender: AckedSender, names: Names, stop: asyncio.Event) -> None:
        """Publish each minute until `stop`, then what is left. Never raises for Kafka's sake."""
        while not await pause(stop, 60 - self.clock() % 60 + 0.05):
            await self._try(sender, names)
        self._roll(int(self.clock() // 60))
        try:
            async with asyncio.timeout(LAST_DEADLINE_S):
                await self._try(sender, names)
        except TimeoutError:
            log.warning("ingest.activity_lost", entries=len(self._pending))

    async def _try(self, sender: AckedSender, names: Names) -> None:
        try:
            await self.publish(sender, names)
        except (BrokerAway, Rejected) as error:
            log.warning("ingest.activity_waits", error=str(error), entries=len(self._pending))

    def _roll_if_over(self) -> None:
        minute = int(self.clock() // 60)
        if minute != self._minute:
            self._roll(minute)
