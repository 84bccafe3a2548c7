"""Aggregators as processes across generations, kill -9 at every step of a generation's life, and the commands."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
import pytest

from services.aggregator.generations import keeper
from services.aggregator.generations.filters import Filters
from shared.contracts.topics import USAGE_EVENTS
from shared.kafka.producer import Producer
from shared.postgres.outbox import OutboxMessage
from shared.runtime.failpoints import arm, held
from tests.conftest import Parts
from tests.support.catalogue import apply_document
from tests.support.generations import aggregators, grow_old, keep, keeping, living, roll, told_and_true
from tests.support.letters import ask, audits
from tests.support.pods import Pod
from tests.support.usage import Counting, counting, stamped
from tests.support.waiting import eventually

KILLED = [
    "aggregator.generation.before_roll",
    "aggregator.generation.before_count",
    "aggregator.filter.before_rename",
    "aggregator.generation.before_drop",
]


async def applied(count: Counting, *ids: int) -> None:
    await count.apply(*(stamped(str(id)) for id in ids))


@pytest.mark.failpoints
@pytest.mark.parametrize("point", KILLED)
async def test_a_keeper_that_is_killed_anywhere_leaves_what_the_next_one_finishes(
    parts: Parts, tmp_path: Path, point: str
) -> None:
    points = tmp_path / "points"
    points.mkdir()
    async with counting(parts.database_url) as count:
        await applied(count, *range(0, 50))
        await roll(count.database)
        await applied(count, *range(25, 90))
        if point == "aggregator.generation.before_drop":
            await keep(parts.database, count.database, Filters())
            grow_old(parts.database_url, 1)
        arm(points, point)
        with keeping(parts, tmp_path, points, keys=100) as killed:
            assert await held(points, point) == killed.pid
            meanwhile = asyncio.create_task(applied(count, 60))  # waits for the lock of the one held in a roll
            killed.kill()
            await meanwhile
        await applied(count, *range(90, 95))
        with keeping(parts, tmp_path, keys=100):
            filters = Filters(tmp_path / "filters")

            async def unfinished() -> int:
                closed = (await living(count.database))[:-1]
                return len([one for one in closed if one.keys is None]) + len(filters.look(closed))

            await eventually(unfinished, lambda left: left == 0)
        count.aggregator.filters = filters
        dropped = point == "aggregator.generation.before_drop"
        await applied(count, *range(50 if dropped else 0, 97))
        assert Counter(await count.dispositions())["c"] == 97
        assert (await count.windows())["tokens"] == (97, 97)
        assert all(said == true for _, said, true in told_and_true(parts.database_url))
        gone = await count.rows("SELECT to_regclass('usage.identity_1') IS NULL")
        assert gone == [(dropped,)]
    assert [path.suffix for path in (tmp_path / "filters").iterdir()] == [".bloom"] * len(filters._held)


async def test_two_aggregator_processes_count_each_planted_repetition_once_while_generations_are_rolled(
    parts: Parts, tmp_path: Path
) -> None:
    """The same 300 events on every partition, twice, with rolls in between and filters built beside them."""
    await apply_document(parts)
    env = parts.env | {
        "AGGREGATOR_FILTER_DIR": str(tmp_path / "filters"),
        "AGGREGATOR_BATCH_RECORDS": "20",
        "AGGREGATOR_BATCH_WAIT_MS": "5",
    }
    pods = [Pod(name, "aggregator", tmp_path, env) for name in ("one", "two")]
    try:
        for pod in pods:
            pod.start(wait=False)
        events = [stamped(str(number)) for number in range(300)]
        topic = parts.kafka.names.topic(USAGE_EVENTS)
        for pod in pods:
            await asyncio.to_thread(pod.wait_ready)
        async with aggregators(parts) as database:
            rolls = 0
            for _ in range(2):
                sent = await _on_every_partition(parts, topic, events)
                applied = False
                while not applied:  # once more when all are applied: also a quick pair meets a roll in each round
                    applied = await _applied(parts) >= sum(sent.values())
                    standing = (await living(database))[-1].id
                    rolls += await keeper.roll(database, standing) is not None
                    await asyncio.sleep(0.05)
            assert rolls >= 2
            rows = await _rows(
                parts, "SELECT count(*), count(DISTINCT key), count(DISTINCT generation) FROM usage.identity"
            )
            assert (rows[0][:2], rows[0][2] >= 2) == ((300, 300), True)
            assert await _rows(
                parts, "SELECT sum(count)::int, sum(sum)::int FROM usage.window WHERE meter_id = 'tokens'"
            ) == [(300, 300)]
            assert await _rows(parts, "SELECT count(*) FROM usage.conflict") == [(0,)]
    finally:
        for pod in pods:
            if pod.child is not None:
                pod.kill()


async def _on_every_partition(parts: Parts, topic: str, events: list[bytes]) -> dict[int, int]:
    """Ends of the partitions; each has every event."""
    found: dict[int, int] = {}
    producer = Producer(parts.kafka, "test")
    try:
        for number in range(64):  # keys until every partition was met
            if len(found) == USAGE_EVENTS.partitions:
                break
            [(partition, _)] = await producer.send([OutboxMessage(topic, b"probe%d" % number, events[0])])
            if partition in found:
                continue
            placed = await producer.send([OutboxMessage(topic, b"probe%d" % number, event) for event in events])
            found[partition] = placed[-1][1] + 1
    finally:
        await producer.stop()
    return found


async def _applied(parts: Parts) -> int:
    [(total,)] = await _rows(
        parts,
        "SELECT coalesce(sum(next_offset), 0)::int FROM messaging.consumer_offset WHERE topic = %s",
        parts.kafka.names.topic(USAGE_EVENTS),
    )
    return int(total)


async def _rows(parts: Parts, query: str, *parameters: object) -> list[Any]:
    async with await psycopg.AsyncConnection.connect(parts.database_url) as owner:
        return await (await owner.execute(query.encode(), parameters)).fetchall()


async def test_an_operator_rolls_and_sees_generations_with_the_filters_of_the_host(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGGREGATOR_FILTER_DIR", str(tmp_path / "filters"))
    filters = Filters(tmp_path / "filters")
    assert await ask(parts, "identities", "roll") == [{"closed": None, "open": 1}]  # empty: nothing to close
    async with counting(parts.database_url) as count:
        await applied(count, 1, 2, 3)
        assert await ask(parts, "identities", "roll") == [{"closed": 1, "open": 2}]
        [first, second] = await ask(parts, "identities", "list")
        assert (first["state"], first["exact"], first["filter"], second["state"]) == ("closed", False, "", "open")
        await keep(parts.database, count.database, filters)
        [first, second] = await ask(parts, "identities", "list")
        assert first == first | {"id": 1, "keys": 3, "exact": True, "filter": "ready", "filter_bytes": 8}
        assert (second["keys"], second["filter_bytes"], first["bytes"] > 8192) == (0, None, True)
        [path] = (tmp_path / "filters").iterdir()
        path.chmod(0o666)
        [first, _] = await ask(parts, "identities", "list")
        assert (first["filter"], first["filter_bytes"]) == ("unsafe", None)
        grow_old(parts.database_url, 1)
        await keep(parts.database, count.database, filters)
    [first, _] = await ask(parts, "identities", "list")
    assert (first["state"], first["keys"], first["bytes"], first["filter"]) == ("dropped", 3, None, "")
    [entry] = await audits(parts, "identities.rolled")
    assert (entry["actor"], entry["object"], entry["details"]) == ("asha", "1", {"opened": 2})
