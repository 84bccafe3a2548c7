"""usage.windows.v1: who keeps the highest revision of each window has the table, whatever was killed or away."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from services.aggregator.windows import publish, store
from services.aggregator.windows.publish import Publisher
from shared.contracts.messages.event import event_key
from shared.contracts.topics import USAGE_EVENTS
from shared.domain.errors import BrokerAway
from shared.domain.meter import AGGREGATIONS
from shared.kafka.fast_producer import FastProducer
from shared.kafka.partitions import partition_of
from shared.kafka.producer import Producer
from shared.kafka.records import Partition
from shared.observability import names as metrics
from shared.postgres.outbox import OutboxMessage
from shared.runtime.failpoints import arm, held
from tests.conftest import Parts
from tests.support.catalogue import apply_document
from tests.support.corrections import void
from tests.support.pods import Pod
from tests.support.reconcile import AT, proving
from tests.support.usage import NOON, NOWHERE, catalogue_rows, opened, stamped
from tests.support.waiting import eventually
from tests.support.windows import TABLE, Publishing, publishing, view

METERS = [
    {
        "id": f"m_{aggregation}",
        "event_type": "gauge.read",
        "aggregation": aggregation,
        **({} if aggregation == "count" else {"value_path": "value"}),
    }
    for aggregation in AGGREGATIONS
]
KILLED = ["aggregator.batch.after_commit", "aggregator.windows.before_send", "aggregator.windows.before_mark"]


async def agreed(one: Publishing) -> None:
    seen = await one.view()
    assert seen.lines() == await one.table()
    assert seen.went_back == 0


async def test_changed_windows_are_published_whole_in_order_on_the_partition_of_their_subject(parts: Parts) -> None:
    async with publishing(parts) as one:
        async with opened(parts.database_url, "khata_catalogue") as database, database.transaction() as connection:
            await catalogue_rows(connection, {"meters": METERS})
        gauges = [stamped(f"g{n}", data={"value": n * 3 % 5}, type="gauge.read", subject=f"s{n % 3}") for n in range(9)]
        await one.count.apply(*gauges, stamped("t", live=False))
        await one.publisher.turn()
        first = await one.view()
        await one.count.apply(stamped("g9", data={"value": "7.50"}, type="gauge.read", subject="s0"))
        await one.publisher.turn()
        seen = await one.view()
        assert len(seen.revisions) == 3 * len(METERS) + 2
        assert sum(map(len, seen.revisions.values())) == len(first.revisions) + len(METERS)  # nothing but what changed
        for key, where in seen.partitions.items():
            said = max(seen.revisions[key].items())[1]
            assert where == {partition_of(event_key(said.project_id, said.subject), USAGE_EVENTS.partitions)}
        quantities = {
            of[max(of)].meter_id: of[max(of)].quantity
            for of in seen.revisions.values()
            if of[max(of)].subject == "s0" and of[max(of)].meter_id.startswith("m_")
        }
        assert quantities == {  # of 0, 4, 3 and 7.50
            "m_count": "4",
            "m_sum": "14.50",
            "m_min": "0",
            "m_max": "7.50",
            "m_avg": "3.625",
            "m_latest": "7.50",
            "m_unique_count": "4",
            "m_weighted_sum": None,
        }
        await agreed(one)


@pytest.mark.parametrize("seed", range(1))
async def test_whatever_is_lost_between_commit_and_publication_is_published_by_healing(parts: Parts, seed: int) -> None:
    dice = random.Random(seed)
    async with publishing(parts) as one:
        for turn in range(20):
            hours = [NOON + timedelta(hours=dice.randint(-3, 3)) for _ in range(dice.randint(1, 6))]
            sent = [stamped(f"{turn}-{n}", n, time=at, subject=f"s{n % 5}") for n, at in enumerate(hours)]
            if turn and dice.random() < 0.4:  # of an event of the batch before, whose windows only the queue names
                sent.append(void(f"v{turn}", f"{turn - 1}-0", subject="s0"))
            await one.count.apply(*sent, partition=dice.randint(0, 2))
            match dice.randint(0, 4):
                case 0 | 1:
                    await one.publisher.turn()
                case 2:
                    one.forget()  # killed: the last batches were told to nobody
                case 3:
                    one.forget(most=1)  # more than it can hold
                case 4:
                    await one.heal()
        await one.publisher.turn()
        await one.heal()
        await agreed(one)
        before = (await one.view()).last
        await one.heal()
        assert (await one.view()).last == before
        cursors = await one.count.rows("SELECT partition, published_offset FROM usage.window_cursor ORDER BY 1")
        assert dict(cursors) == one.count.ends


async def test_while_the_broker_is_away_nothing_is_lost_and_batches_go_on(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "ACK_S", 0.5)
    away = FastProducer(NOWHERE, "test")
    with pytest.raises(BrokerAway):
        await away.start()  # usable all the same, once there is one
    async with publishing(parts) as one:
        changed = one.count.aggregator.changed
        assert changed is not None
        gone = Publisher(changed, one.sender(away), 0.01)
        for n in range(3):
            await one.count.apply(stamped(f"a{n}", subject=f"s{n}"))
            if n == 1:
                with pytest.raises(BrokerAway):
                    await asyncio.wait_for(gone.turn(), 8)
        assert (await one.view()).lines() == []
        await one.publisher.turn()
        await agreed(one)
        assert len(await one.table()) == 6


async def test_too_many_changes_are_given_up_in_memory_and_found_in_the_archive(parts: Parts) -> None:
    async with publishing(parts) as one:
        await one.heal()
        one.forget(most=3)
        given_up = metrics.WINDOWS_DROPPED._value.get()
        await one.count.apply(*(stamped(f"{n}", subject=f"s{n}") for n in range(5)))
        assert metrics.WINDOWS_DROPPED._value.get() - given_up == 10
        await one.publisher.turn()
        await one.count.apply(stamped("later", subject="s9"))
        await one.publisher.turn()  # moves no cursor over what was given up
        assert len((await one.view()).revisions) == 2
        await one.heal()
        await agreed(one)


async def test_of_two_who_publish_a_window_the_one_that_read_it_first_is_heard_first(parts: Parts) -> None:
    """Else the older state would be the last word, which is what compaction keeps."""
    async with publishing(parts) as one:
        await one.count.apply(stamped("a"))
        reading, going = asyncio.Event(), asyncio.Event()

        class Held(FastProducer):
            async def send(self, *arguments: Any, **more: Any) -> list[tuple[int, int]]:
                reading.set()
                await going.wait()
                return await super().send(*arguments, **more)

        slow = Held(parts.kafka, "slow")
        await slow.start()
        keys = one.publisher.changed.take().keys
        older = asyncio.create_task(one.sender(slow).send(keys, "batch"))
        await reading.wait()
        await one.count.apply(stamped("b"))
        newer = asyncio.create_task(one.sender().send(keys, "batch"))
        done, _ = await asyncio.wait({newer}, timeout=0.5)
        assert not done
        going.set()
        await asyncio.gather(older, newer)
        await slow.stop()
        await agreed(one)


async def test_old_events_that_a_new_meter_refuses_are_healed_for_the_others(parts: Parts) -> None:
    async with publishing(parts) as one:
        await one.count.apply(stamped("a"))
        one.forget()
        sizes = {"id": "sizes", "event_type": "api.request", "aggregation": "sum", "value_path": "size"}
        await apply_document(parts, {"meters": [sizes | {"backfill": True}]})
        await one.heal()
        assert len(await one.table()) == 2
        await agreed(one)


async def test_what_a_rewind_applies_again_is_published_though_its_aggregator_dies(parts: Parts) -> None:
    """A hole in the archive is filled below offsets whose windows are published."""
    async with publishing(parts) as one:
        await one.count.apply(stamped("a"))
        await one.count.apply(stamped("b", subject="bob"))
        await one.publisher.turn()
        await one.heal()
        async with one.count.database.transaction() as connection:
            await store.step_back(connection, Partition(one.count.topic, 0), 0)
        with psycopg.connect(parts.database_url) as owner:  # windows as if the batch had changed them again
            owner.execute("UPDATE usage.window SET revision = revision + 1")
        one.forget()
        await one.heal()
        await agreed(one)


async def test_repairs_raise_the_revision_even_of_a_window_that_is_taken_away(parts: Parts) -> None:
    async with proving(parts) as prove, publishing(parts) as one:
        await prove.log(stamped("a", 5, time=AT), stamped("b", 7, subject="bob", time=AT))
        await one.heal()
        before = {said[2:5]: said[7] for said in (await one.view()).lines()}
        prove.harm("UPDATE usage.window SET sum = sum + 1 WHERE meter_id = 'tokens' AND subject = 'alice'")
        prove.harm(
            "INSERT INTO usage.window SELECT organisation_id, project_id, live, 'nobody', meter_id, meter_version, "
            "dimensions, hour, count, sum, fingerprint_high, fingerprint_low, 9 FROM usage.window "
            "WHERE meter_id = 'requests' AND subject = 'bob'"
        )
        assert sorted(one.outcome for one in await prove.repair()) == ["repaired", "repaired"]
        await one.heal()
        await agreed(one)
        now = {said[2:5]: (said[7], said[8]) for said in (await one.view()).lines()}
        assert now["alice", "tokens", 1] == (before["alice", "tokens", 1] + 1, 1)
        assert now["nobody", "requests", 1] == (10, 0)
        assert await prove.counting.rows("SELECT count(*) FROM usage.changed_window") == [(0,)]


@pytest.mark.failpoints(*KILLED)
async def test_a_process_killed_between_commit_and_publication_leaves_no_window_unpublished(
    parts: Parts, tmp_path: Path
) -> None:
    await apply_document(parts)
    points = tmp_path / "points"
    points.mkdir()
    env = parts.env | {"KHATA_FAILPOINTS_DIR": str(points), "AGGREGATOR_PUBLISH_SECONDS": "0.05"}
    pod = Pod("aggregator", "aggregator", tmp_path, env)
    producer = Producer(parts.kafka, "test")

    async def send(*ids: int) -> None:
        topic = parts.kafka.names.topic(USAGE_EVENTS)
        values = [(f"s{id % 5}", stamped(str(id), subject=f"s{id % 5}")) for id in ids]
        await producer.send([OutboxMessage(topic, event_key("acme-app", key), value) for key, value in values])

    async def counted() -> tuple[int, bool]:
        async with await psycopg.AsyncConnection.connect(parts.database_url) as connection:
            table = await (await connection.execute(TABLE)).fetchall()
        return sum(row[8] for row in table if row[3] == "requests"), table == (await view(parts)).lines()

    try:
        await asyncio.to_thread(pod.start)
        await send(*range(10))
        await eventually(counted, lambda found: found == (10, True))
        for sent, point in zip((10, 20, 30), KILLED, strict=True):
            arm(points, point)
            await send(*range(sent, sent + 10))
            assert await held(points, point) == pod.pid
            await asyncio.to_thread(pod.kill)
            await asyncio.to_thread(pod.start)
            await eventually(counted, lambda found, all=sent + 10: found == (all, True))  # type: ignore[misc]
    finally:
        if pod.child is not None:
            pod.kill()
        await producer.stop()
