"""A producer straight on usage.events.v1 with a memory, and the judge of what became of all it sent.

Among new events it sends, on purpose: events again (in the same batch, in later ones, on other partitions, with another
time), identities that say something else (other usage, or of another subject), and records that can never count.
What was sent is known exactly; the log says in which order it arrived (a send without an answer may stand in it), so
what must be counted follows from the log and the memory alone.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

import psycopg

from shared.contracts.topics import USAGE_EVENTS
from shared.domain.errors import BrokerAway
from shared.kafka.producer import Producer
from shared.kafka.records import Record
from shared.postgres.outbox import OutboxMessage
from shared.usage.segment import Disposition, from_letters, unpack
from tests.conftest import Parts
from tests.support.kafka import read_topic
from tests.support.usage import NOON, stamped
from tests.support.waiting import eventually

KEYS = 64  # of records: spread over all partitions, whatever they say
SUBJECTS = ("alice", "bob", "carol")
REMEMBERED = 500  # how far back something is sent again
AGAIN, OTHERWISE, NEVER = 0.05, 0.01, 0.01  # shares of repetitions, conflicts, and of what can never count
ONE_SEND_S = 5.0
LETTERS_S = 60.0  # they are kept by another loop, after the events


class Event(NamedTuple):
    """One event as it was sent; `tokens` is written as the producer writes it."""

    id: str
    subject: str
    tokens: str
    minute: int

    @property
    def says(self) -> tuple[str, Decimal]:
        """What tells a repetition from a conflict; the time does not."""
        return self.subject, Decimal(self.tokens)

    @property
    def hour(self) -> datetime:
        """India's hours begin at minute 30 of UTC's, and so does NOON."""
        return NOON + timedelta(hours=self.minute // 60)

    def value(self, source: str, padding: str) -> bytes:
        data = f'{{"tokens":{self.tokens},"padding":"{padding}"}}'.encode()
        time = NOON + timedelta(minutes=self.minute)
        return stamped(self.id, source=source, subject=self.subject, data=data, time=time)


Place = tuple[int, int]
Total = tuple[int, Fraction]


@dataclass
class Feed:
    """`sent`: value -> what it says, None for what can never count; `acked`: place in the log -> value.

    `padding_bytes`: of each event, hardly to be compressed. `damage`: whether some can never count.
    """

    parts: Parts
    seed: int = 1
    padding_bytes: int = 0
    damage: bool = True
    sent: dict[bytes, Event | None] = field(default_factory=dict)
    acked: dict[Place, bytes] = field(default_factory=dict)
    unanswered: int = 0

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self._recent: deque[Event] = deque(maxlen=REMEMBERED)
        self._next = 0
        self.source = f"feed-{self.seed}"

    def batch(self, events: int) -> list[OutboxMessage]:
        """So many records, written down as sent."""
        found: list[Event] = []
        values = [self._record(found) for _ in range(events)]
        self._dice.shuffle(values)
        self._recent.extend(found)
        topic = self.parts.kafka.names.topic(USAGE_EVENTS)
        return [OutboxMessage(topic, b"k%d" % self._dice.randrange(KEYS), value) for value in values]

    def _record(self, batch: list[Event]) -> bytes:
        dice, chance = self._dice, self._dice.random()
        before = batch if batch and dice.random() < 0.5 else self._recent
        if self.damage and chance < NEVER:
            return self._never()
        if before and chance < NEVER + AGAIN + OTHERWISE:
            event = dice.choice(before)._replace(minute=dice.randrange(180))
            if chance < NEVER + OTHERWISE:
                other = {"subject": "dave"} if dice.random() < 0.5 else {"tokens": "77777"}
                event = event._replace(**other)
        else:
            self._next += 1
            tokens = dice.choice(["1", "7", "0.1", "2.000000000000000001", "10000000000000000"])
            event = Event(f"e{self._next}", dice.choice(SUBJECTS), tokens, dice.randrange(180))
            batch.append(event)
        padding = random.Random(event.id).randbytes(self.padding_bytes // 2).hex()
        value = event.value(self.source, padding)
        self.sent[value] = event
        return value

    def _never(self) -> bytes:
        self._next += 1
        broken = b'{"broken":%d' % self._next
        no_meter = stamped(f"n{self._next}", source=self.source, type="nobody.counts.it")
        value = self._dice.choice([broken, no_meter])
        self.sent[value] = None
        return value

    async def send(self, producer: Producer, messages: Sequence[OutboxMessage], patience_s: float = 120.0) -> None:
        """Again and again until the broker has acked all of them."""
        async with asyncio.timeout(patience_s):
            while True:
                try:
                    places = await producer.send(messages, ONE_SEND_S)
                except BrokerAway:
                    self.unanswered += len(messages)
                    await asyncio.sleep(0.2)
                else:
                    self.acked |= {place: one.value or b"" for place, one in zip(places, messages, strict=True)}
                    return

    async def fill(self, events: int, per_send: int = 500) -> None:
        """So many records, as fast as the broker takes them."""
        async with self._producer() as producer:
            for first in range(0, events, per_send):
                await self.send(producer, self.batch(min(per_send, events - first)))

    @asynccontextmanager
    async def flowing(self, events: int = 20, pause_s: float = 0.05) -> AsyncIterator[None]:
        """So many records every so often until the block ends; all that was sent is acked then."""
        stop = asyncio.Event()

        async def flow() -> None:
            async with self._producer() as producer:
                while not stop.is_set():
                    await self.send(producer, self.batch(events))
                    with suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), pause_s)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(flow())
            try:
                yield
            finally:
                stop.set()

    async def more(self, records: int, deadline_s: float = 60.0) -> None:
        """Until so many more are acked than now."""
        wanted = len(self.acked) + records

        async def acked() -> int:
            return len(self.acked)

        await eventually(acked, lambda found: found >= wanted, deadline_s)

    @asynccontextmanager
    async def _producer(self) -> AsyncIterator[Producer]:
        producer = Producer(self.parts.kafka, "feed")
        try:
            yield producer
        finally:
            await producer.stop()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a log, by number: of the report of a run."""

    records: int
    identities: int
    dispositions: Mapping[Disposition, int]
    windows: int

    def __str__(self) -> str:
        told = ", ".join(f"{what.name.lower()} {count:,}" for what, count in sorted(self.dispositions.items()))
        return f"{self.records:,} records, {self.identities:,} identities ({told}), {self.windows} windows"


async def log_of(parts: Parts) -> dict[Place, Record]:
    """All that is in it."""
    return {(one.partition, one.offset): one for one in await read_topic(parts, parts.kafka.names.topic(USAGE_EVENTS))}


async def judge(feed: Feed, *, identities_dropped: bool = False, gone: Mapping[Place, Record] | None = None) -> Outcome:
    """Everything is applied: whether log, archive, windows, conflicts, identities, offsets and dead letters agree, to
    the record and to the last decimal, with what was sent. `gone`: what was in the log and was deleted from it."""
    topic = feed.parts.kafka.names.topic(USAGE_EVENTS)
    log = {**(gone or {}), **await log_of(feed.parts)}
    assert feed.acked.items() <= {place: one.value for place, one in log.items()}.items(), "acked, and not in the log"
    unknown = [place for place, one in log.items() if one.value not in feed.sent]
    assert not unknown, f"in the log, and never sent: {unknown[:5]}"
    with psycopg.connect(feed.parts.database_url) as owner:
        stored = _archive(owner)
        assert stored.keys() == log.keys(), f"{len(log.keys() ^ stored.keys())} records are not in both log and archive"
        assert all(stored[place][0] == log[place] for place in log), "the archive says something else than the log"
        dispositions = {place: disposition for place, (_, disposition) in stored.items()}
        counted = _check(feed, log, dispositions)
        windows = _windows(owner)
        assert windows == _expected(counted.values())
        found = owner.execute("SELECT partition, log_offset FROM usage.conflict").fetchall()
        assert Counter(found) == Counter(place for place, what in dispositions.items() if what is Disposition.CONFLICT)
        [(keys, distinct)] = owner.execute("SELECT count(*), count(DISTINCT key) FROM usage.identity").fetchall()
        assert keys == distinct
        assert keys == len(counted) or (identities_dropped and keys < len(counted)), (keys, len(counted))
        ends = owner.execute(
            "SELECT partition, next_offset FROM messaging.consumer_offset WHERE topic = %s", (topic,)
        ).fetchall()
        assert dict(ends) == {
            partition: max(o for p, o in log if p == partition) + 1 for partition in {p for p, _ in log}
        }
    rejected = {place for place, what in dispositions.items() if what is Disposition.REJECTED}
    await eventually(lambda: _letters(feed.parts, topic), lambda found: found == rejected, LETTERS_S)
    return Outcome(len(log), len(counted), Counter(dispositions.values()), len(windows))


def _check(feed: Feed, log: Mapping[Place, Record], dispositions: Mapping[Place, Disposition]) -> dict[str, Event]:
    """By id, the one event that stands; everything else that the log has of it repeats or contradicts it."""
    by_id: dict[str, list[tuple[Event, Disposition]]] = defaultdict(list)
    for place, record in log.items():
        event, became = feed.sent[record.value or b""], dispositions[place]
        if event is None:
            assert became is Disposition.REJECTED, (place, became)
        else:
            by_id[event.id].append((event, became))
    standing: dict[str, Event] = {}
    for id, all_of_it in by_id.items():
        counted = [event for event, became in all_of_it if became is Disposition.COUNTED]
        assert len(counted) == 1, f"{id} is counted {len(counted)} times"
        [standing[id]] = counted
        expected = Counter(
            Disposition.DUPLICATE if event.says == counted[0].says else Disposition.CONFLICT for event, _ in all_of_it
        )
        expected += Counter({Disposition.COUNTED: 1})
        expected -= Counter({Disposition.DUPLICATE: 1})  # the one that stands says the same as itself
        assert Counter(became for _, became in all_of_it) == expected, (id, all_of_it)
    return standing


def _archive(owner: psycopg.Connection) -> dict[Place, tuple[Record, Disposition]]:
    found: dict[Place, tuple[Record, Disposition]] = {}
    rows = owner.execute("SELECT topic, partition, dispositions, payload, sha256 FROM usage.segment").fetchall()
    for topic, partition, letters, payload, sha256 in rows:
        for record, what in zip(unpack(topic, partition, payload, sha256), from_letters(letters), strict=True):
            assert (partition, record.offset) not in found, f"{partition}:{record.offset} stands in two segments"
            found[partition, record.offset] = (record, what)
    return found


def _windows(owner: psycopg.Connection) -> dict[tuple[str, str, datetime], Total]:
    rows = owner.execute("SELECT subject, meter_id, hour, count, sum FROM usage.window WHERE live").fetchall()
    return {(subject, meter, hour): (count, Fraction(total)) for subject, meter, hour, count, total in rows}


def _expected(events: Sequence[Event]) -> dict[tuple[str, str, datetime], Total]:
    counts: Counter[tuple[str, datetime]] = Counter()
    tokens: defaultdict[tuple[str, datetime], Fraction] = defaultdict(Fraction)
    for event in events:
        counts[event.subject, event.hour] += 1
        tokens[event.subject, event.hour] += Fraction(event.tokens)
    found: dict[tuple[str, str, datetime], Total] = {}
    for (subject, hour), count in counts.items():
        found[subject, "requests", hour] = (count, Fraction(count))
        found[subject, "tokens", hour] = (count, tokens[subject, hour])
    return found


async def _letters(parts: Parts, topic: str) -> set[Place]:
    """Of which records of the topic a dead letter is kept."""
    async with await psycopg.AsyncConnection.connect(parts.database_url) as owner:
        found = await owner.execute(
            "SELECT partition, log_offset FROM messaging.dead_letter WHERE topic = %s AND origin_known", (topic,)
        )
        rows = await found.fetchall()
    assert len(rows) == len(set(rows)), "a dead letter is kept twice"
    return set(rows)
