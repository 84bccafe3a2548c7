"""A group is set back only when nobody of it is alive, Kafka's position first; what is read again changes no total."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from cli.offsets import OffsetsSettings, _show
from shared.domain.errors import BrokerAway
from shared.kafka import offsets, rewind
from shared.kafka.consumer import ConsumerLoop, Limits
from shared.kafka.records import OffsetRange, Partition, Record
from tests.conftest import Parts
from tests.support.catalogue import DOCUMENT
from tests.support.kafka import committed, read_topic, send
from tests.support.letters import ask, audits, events_topic, khata
from tests.support.usage import Counting, catalogue_rows, counting, opened, stamped
from tests.support.waiting import eventually


@asynccontextmanager
async def aggregating(parts: Parts, count: Counting) -> AsyncIterator[None]:
    """The aggregator's loop."""
    stop = asyncio.Event()
    loop = ConsumerLoop(
        parts.kafka,
        group=count.aggregator.group,
        instance="one",
        topics=[events_topic(parts)],
        handler=count.aggregator,
        limits=Limits(max_records=7, wait_ms=50),
    )
    running = asyncio.create_task(loop.run(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(running, 15)


async def lags(parts: Parts) -> list[int]:
    """By `khata offsets show`, without the command: the loop beside it writes its log to the same stdout."""
    settings = OffsetsSettings.model_validate(parts.kafka.model_dump() | {"database_url": parts.database_url})
    return [row["lag"] for row in await _show(settings, parts.kafka.names.group("aggregator"), None)]


async def totals(count: Counting, topic: str) -> list[Any]:
    """All that applying leaves behind, but for when."""
    return [
        await count.rows(
            "SELECT meter_id, subject, hour, count, sum, fingerprint_high, revision FROM usage.window ORDER BY 1, 2, 3"
        ),
        await count.rows("SELECT key, partition, log_offset FROM usage.identity ORDER BY 1"),
        await count.rows("SELECT partition, first_offset, record_count, sha256 FROM usage.segment ORDER BY 1, 2"),
        await count.rows("SELECT partition, log_offset FROM usage.conflict ORDER BY 1, 2"),
        await count.dispositions(topic),
    ]


async def test_after_a_full_rewind_everything_is_read_again_and_every_total_is_what_it_was(parts: Parts) -> None:
    topic, group = events_topic(parts), parts.kafka.names.group("aggregator")
    rewinding = ("offsets", "rewind", "--group", "khata.aggregator", "--topic", "usage.events.v1", "--reason", "drill")
    values = [stamped(f"e{n % 40}", n % 2 if n > 55 else 1) for n in range(60)]  # 20 again, two of them in conflict
    async with counting(parts.database_url, parts.kafka, group) as count:
        await send(parts, topic, [*values, b"{", stamped("no meter", type="later")], keys=5)
        async with aggregating(parts, count):
            await eventually(lambda: lags(parts), lambda found: sum(found) == 0 and len(found) > 1)
            code, _, err = await khata(parts, *rewinding, "--to", "beginning", "--yes")
            assert (code, f"has living members ({group}.one)" in err) == (2, True)
            with pytest.raises(BrokerAway):  # and Kafka itself, for a process that starts at that moment
                await rewind.commit(parts.kafka, group, {Partition(topic, 0): 0})
        before = await totals(count, topic)
        assert {letter: before[-1].count(letter) for letter in "cdxr"} == {"c": 40, "d": 18, "x": 2, "r": 2}
        ends = await committed(parts, group)
        await eventually(lambda: rewind.members(parts.kafka, group), lambda alive: not alive)

        planned = await ask(parts, *rewinding, "--to", "beginning")
        assert sum(row["read_again"] for row in planned) == 62
        assert {row["outcome"] for row in planned} == {"would be rewound"}
        assert (await lags(parts), await committed(parts, group)) == ([0] * len(planned), ends)

        done = await ask(parts, *rewinding, "--to", "beginning", "--yes")
        assert {(row["target"], row["outcome"]) for row in done} == {(0, "rewound")}
        assert set((await committed(parts, group)).values()) == {0}
        assert sum(await lags(parts)) == 62
        async with opened(parts.database_url, "khata_catalogue") as database, database.transaction() as connection:
            later = {"id": "later", "event_type": "later", "aggregation": "count"}
            await catalogue_rows(connection, DOCUMENT | {"meters": [*DOCUMENT["meters"], later]})
        await send(parts, topic, [stamped("new")])
        async with aggregating(parts, count):
            await eventually(lambda: lags(parts), lambda found: sum(found) == 0)
        after = await totals(count, topic)
    assert sorted(after[-1]) == sorted(before[-1] + "c")
    assert [len(one) for one in after[1:4]] == [len(before[1]) + 1, len(before[2]) + 1, len(before[3])]
    assert after[0] != before[0]  # the new one; without it they are equal
    assert [(row[0], row[3] - 1) for row in after[0]] == [(row[0], row[3]) for row in before[0]]
    assert [set(one) >= set(two) for one, two in zip(after[1:4], before[1:4], strict=True)] == [True] * 3
    [entry] = await audits(parts, "offsets.rewound")
    assert (entry["actor"], entry["object"], entry["details"]["reason"]) == ("asha", group, "drill")
    assert {tuple(move)[1] for move in entry["details"]["partitions"].values()} == {0}


async def test_to_a_time_an_offset_and_not_where_records_would_be_passed_over(parts: Parts) -> None:
    topic, group = events_topic(parts), parts.kafka.names.group("aggregator", "test")
    [(partition, _), *_] = await send(parts, topic, [b"a", b"b"])
    await eventually(_after(parts, topic, partition))
    await send(parts, topic, [b"c", b"d"])
    records = [record for record in await read_topic(parts, topic) if record.partition == partition]
    since = datetime.fromtimestamp(records[2].timestamp_ms / 1000, UTC).isoformat()
    assert records[1].timestamp_ms < records[2].timestamp_ms
    await _store(parts, group, records[3])

    async def to(target: str, *more: str) -> list[tuple[int, int, str]]:
        rows = await ask(parts, *_rewinding, "--to", target, "--partition", str(partition), *more)
        return [(row["stored"], row["target"], row["outcome"]) for row in rows]

    _rewinding = ("offsets", "rewind", "--group", group, "--topic", topic, "--reason", "x")
    assert await to(since) == [(4, 2, "would be rewound")]
    assert await to(since, "--yes") == [(4, 2, "rewound")]
    async with opened(parts.database_url, "khata_reader") as database, database.connection() as connection:
        at = Partition(topic, partition)
        assert (await offsets.stored(connection, group, [at]))[at] == offsets.StoredOffset(2, None, None)
    assert await committed(parts, group) == {(topic, partition): 2}
    async with opened(parts.database_url, "khata_aggregator") as database, database.transaction() as connection:
        assert not await rewind.store(connection, group, at, 0, seen=3)  # it has moved on meanwhile
    assert await to("1", "--yes") == [(2, 1, "rewound")]
    assert await to("2099-01-01", "--yes") == [(1, 1, "unchanged")]
    for target, says in (("3", "2 records would never be read"), ("9", "not in the log"), ("soon", "is no time")):
        code, _, err = await khata(parts, *_rewinding, "--to", target, "--partition", str(partition), "--yes")
        assert (code, says in err) == (2, True), err
    assert (await khata(parts, *_rewinding, "--to", "1", "--yes"))[0] == 2  # of which partition?
    code, _, err = await khata(parts, *_rewinding[:3], "khata.ingest.door", *_rewinding[4:], "--to", "beginning")
    assert (code, "has no offsets in Postgres" in err) == (2, True)
    [row] = await ask(parts, "offsets", "show", "--topic", "usage.events.v1")
    told = {name: row[name] for name in ("group", "stored", "log_start", "log_end", "lag", "kafka")}
    assert told == {"group": group, "stored": 1, "log_start": 0, "log_end": 4, "lag": 3, "kafka": 1}


def _after(parts: Parts, topic: str, partition: int) -> Any:
    """Until the clock has moved on since the last record: the broker's timestamps have milliseconds."""

    async def moved() -> bool:
        last = [record for record in await read_topic(parts, topic) if record.partition == partition][-1]
        return datetime.now(UTC).timestamp() * 1000 > last.timestamp_ms + 5

    return moved


async def _store(parts: Parts, group: str, last: Record) -> None:
    async with opened(parts.database_url, "khata_aggregator") as database, database.transaction() as connection:
        moved = OffsetRange(last.topic, last.partition, 0, last.offset + 1, last)
        await offsets.move(connection, group, [moved])
