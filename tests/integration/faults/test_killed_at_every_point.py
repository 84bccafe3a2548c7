"""kill -9 at every named place between accept and count, with real processes; the producer's journal is the judge.

direct       HTTP and Kafka door, answers once Kafka has acked
edge         HTTP door, answers once its spool is fsynced; the forwarder carries it on
aggregator   counts both
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from devstack.stack import Stack
from shared.runtime import failpoints
from tests.support.plant import Plant, plant
from tests.support.waiting import eventually

# Where it is killed, and the door that the load comes through meanwhile.
POINTS = [
    ("ingest.http.before_ack", "direct"),
    ("ingest.http.before_ack", "edge"),
    ("spool.append.before_commit", "edge"),
    ("spool.append.after_commit", "edge"),
    ("spool.forward.before_ack", "edge"),
    ("spool.forward.before_mark", "edge"),
    ("aggregator.batch.after_offsets", "direct"),
    ("aggregator.batch.before_commit", "edge"),
    ("aggregator.batch.after_commit", "direct"),
]


@pytest.fixture(scope="module")
def running(stack: Stack, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    addresses = stack.addresses
    home = tmp_path_factory.mktemp("plant")
    with plant(home, addresses.kafka_bootstrap, addresses.database_url, template_database) as made:
        # No days: what the aggregator has may be purged at once.
        made.spooling("edge", INGEST_ACCEPT="spool", SPOOL_KEEP_DAYS="0")
        made.pod("direct")
        made.pod("aggregator", "aggregator")
        for pod in made.pods.values():
            pod.start(wait=False)
        for pod in made.pods.values():
            pod.wait_ready()
        yield made


@pytest.mark.failpoints
@pytest.mark.parametrize(("point", "door"), POINTS)
async def test_killed_there_what_was_answered_is_counted_once(running: Plant, point: str, door: str) -> None:
    journal = running.journal(f"{point}-{door}", running.pods[door])
    async with journal.load():
        await journal.more()
        failpoints.arm(running.points, point)
        victim = await running.kill_held(point)
        await asyncio.to_thread(victim.start)
        await journal.more()
    await running.settled(journal)


@pytest.mark.failpoints("ingest.door.before_commit")
async def test_killed_there_what_a_producer_on_kafka_got_acked_is_counted_once(running: Plant) -> None:
    journal = running.journal("raw", running.pods["direct"])
    failpoints.arm(running.points, "ingest.door.before_commit")
    for _ in range(3):
        await journal.send_raw(running.parts)
    victim = await running.kill_held("ingest.door.before_commit")
    await journal.send_raw(running.parts)
    await asyncio.to_thread(victim.start)
    await running.settled(journal)


@pytest.mark.failpoints("spool.purge.before_delete")
async def test_killed_before_the_purge_nothing_is_missing_and_the_next_start_purges(running: Plant) -> None:
    edge = running.pods["edge"]
    journal = running.journal("purge", edge)
    await journal.send(200)
    await running.settled(journal)
    assert await rows_in_spool(running) > 0
    await asyncio.to_thread(edge.kill)
    failpoints.arm(running.points, "spool.purge.before_delete")
    await asyncio.to_thread(edge.start)
    assert await running.kill_held("spool.purge.before_delete") is edge
    await asyncio.to_thread(edge.start)
    await eventually(lambda: rows_in_spool(running), lambda rows: rows == 0)
    await journal.send(10)
    await running.settled(journal)


async def rows_in_spool(running: Plant) -> int:
    with closing(sqlite3.connect(f"file:{running.spool('edge')}?mode=ro", uri=True)) as spool:
        [(rows,)] = spool.execute("SELECT count(*) FROM batch").fetchall()
    return int(rows)
