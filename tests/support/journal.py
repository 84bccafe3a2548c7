"""A producer with a memory: what it sent, what was answered "yes", and how that compares with what was counted.

The journal is the oracle: it knows nothing of the product but its answers. One journal has one subject, so its usage
stands in windows of its own, and the archive tells for each id how often it was counted.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal

import httpx2
import msgspec
import psycopg

from shared.contracts.topics import USAGE_RAW
from shared.usage.segment import Disposition, from_letters, unpack
from tests.conftest import Parts
from tests.support.ingest import MANY, event
from tests.support.kafka import send
from tests.support.waiting import eventually

PAUSE_S = 0.01
CARELESS = 10  # every so many calls, one that is sent once and then forgotten, whatever became of it


@dataclass
class Journal:
    """`sent` and `answered`: id -> tokens; `statuses` counts what came back (None: no answer at all)."""

    url: str
    key: str = field(repr=False)
    subject: str
    timeout_s: float = 5.0
    padding_bytes: int = 0  # of each event, such as no compression makes smaller
    sent: dict[str, int] = field(default_factory=dict)
    answered: dict[str, int] = field(default_factory=dict)
    statuses: Counter[int | None] = field(default_factory=Counter)
    retry_after: set[str | None] = field(default_factory=set)  # of the answers that were 503
    _calls: int = 0

    def batch(self, events: int = 10) -> dict[str, int]:
        """New events, written down as sent."""
        first = len(self.sent)
        made = {f"{self.subject}-{number}": number % 7 + 1 for number in range(first, first + events)}
        self.sent |= made
        return made

    def documents(self, batch: Mapping[str, int], **more: object) -> list[dict[str, object]]:
        return [self._document(id, tokens) | more for id, tokens in batch.items()]

    def _document(self, id: str, tokens: int) -> dict[str, object]:
        """The same for every attempt."""
        padding = random.Random(id).randbytes(self.padding_bytes * 3 // 4)
        data = {"tokens": tokens, "padding": base64.b64encode(padding).decode()}
        return event(id, tokens, subject=self.subject, data=data)

    async def post(self, client: httpx2.AsyncClient, batch: Mapping[str, int]) -> int | None:
        """One attempt."""
        try:
            answer = await client.post(
                f"{self.url}/v1/events",
                content=json.dumps(self.documents(batch)),
                headers={"Authorization": f"Bearer {self.key}", "Content-Type": MANY},
            )
        except httpx2.TransportError:
            status = None
        else:
            status = answer.status_code
            if status == 202:
                assert answer.json()["accepted"] == len(batch), answer.text
                self.answered |= batch
            elif status == 503:
                self.retry_after.add(answer.headers.get("retry-after"))
        self.statuses[status] += 1
        return status

    async def send(self, events: int = 10, patience_s: float = 30.0) -> None:
        """One batch, again and again until it is accepted."""
        batch = self.batch(events)
        async with self.client() as client, asyncio.timeout(patience_s):
            while await self.post(client, batch) != 202:
                await asyncio.sleep(PAUSE_S)

    async def once(self, events: int = 10) -> int | None:
        """One batch, one attempt; its status."""
        async with self.client() as client:
            return await self.post(client, self.batch(events))

    async def send_raw(self, parts: Parts, events: int = 40) -> None:
        """A batch straight to usage.raw.v1, over all partitions; the broker's ack is the answer."""
        batch = self.batch(events)
        values = [json.dumps(document).encode() for document in self.documents(batch, project="acme-app")]
        await send(parts, parts.kafka.names.topic(USAGE_RAW), values, keys=8)
        self.answered |= batch

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(trust_env=False, timeout=self.timeout_s)

    @asynccontextmanager
    async def load(self, producers: int = 2, patience_s: float = 60.0) -> AsyncIterator[None]:
        """Producers that go on until the block ends, and then until what they have in hand is accepted."""
        stop = asyncio.Event()
        async with self.client() as client, asyncio.TaskGroup() as tasks:
            for _ in range(producers):
                tasks.create_task(self._produce(client, stop, patience_s))
            try:
                yield
            finally:
                stop.set()

    async def _produce(self, client: httpx2.AsyncClient, stop: asyncio.Event, patience_s: float) -> None:
        while not stop.is_set():
            batch, self._calls = self.batch(), self._calls + 1
            careless = self._calls % CARELESS == 0
            async with asyncio.timeout(patience_s):
                while await self.post(client, batch) != 202 and not careless:
                    await asyncio.sleep(PAUSE_S * 5)
            await asyncio.sleep(PAUSE_S)

    async def more(self, events: int = 50, deadline_s: float = 30.0) -> None:
        """Until so many more are answered than now."""
        wanted = len(self.answered) + events

        async def answered() -> int:
            return len(self.answered)

        await eventually(answered, lambda found: found >= wanted, deadline_s)

    def compare(self, stored: Archive, windows: Windows) -> None:
        """Everything answered is counted, nothing twice, nothing that was never sent; the windows say the same."""
        found, dispositions = stored[self.subject]
        missing = sorted(self.answered.keys() - found.keys())
        assert not missing, f"{len(missing)} answered events are not counted: {missing[:5]}"
        assert found.keys() <= self.sent.keys(), "counted, but never sent"
        assert [id for id, times in found.items() if times != 1] == [], "counted more than once"
        assert dispositions.keys() <= {Disposition.COUNTED, Disposition.DUPLICATE}, dispositions
        tokens = sum(self.sent[id] for id in found)
        assert windows[self.subject] == {
            "requests": (len(found), Decimal(len(found))),
            "tokens": (len(found), Decimal(tokens)),
        }


class _Told(msgspec.Struct):
    """What the archive is asked for."""

    id: str
    subject: str


Archive = Mapping[str, tuple[Counter[str], Counter[Disposition]]]
"""By subject: how often each id was counted, and what became of all its records."""
Windows = Mapping[str, Mapping[str, tuple[int, Decimal]]]
"""By subject and meter: (count, sum) over all windows."""


def archive(database_url: str) -> Archive:
    """The whole archive, read as whoever recomputes reads it."""
    found: dict[str, tuple[Counter[str], Counter[Disposition]]] = defaultdict(lambda: (Counter(), Counter()))
    decode = msgspec.json.Decoder(_Told).decode
    with psycopg.connect(database_url) as owner:
        rows = owner.execute("SELECT topic, partition, dispositions, payload, sha256 FROM usage.segment").fetchall()
    for topic, partition, letters, payload, sha256 in rows:
        for record, disposition in zip(unpack(topic, partition, payload, sha256), from_letters(letters), strict=True):
            told = decode(record.value or b"")
            counted, dispositions = found[told.subject]
            dispositions[disposition] += 1
            if disposition is Disposition.COUNTED:
                counted[told.id] += 1
    return found


def all_windows(database_url: str) -> Windows:
    found: dict[str, dict[str, tuple[int, Decimal]]] = defaultdict(dict)
    with psycopg.connect(database_url) as owner:
        rows = owner.execute(
            "SELECT subject, meter_id, sum(count)::bigint, sum(sum) FROM usage.window WHERE live GROUP BY 1, 2"
        ).fetchall()
    for subject, meter, count, total in rows:
        found[subject][meter] = (count, total)
    return found
