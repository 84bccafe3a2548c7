"""kill -9 at every named place between accept and count, with real processes; the producer's journal is the judge."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from devstack.stack import Stack
from tests.support.kills import (
    DOOR,
    POINTS,
    PURGE,
    kill_at_the_kafka_door,
    kill_before_a_purge,
    kill_under_load,
    start_three,
)
from tests.support.plant import Plant, plant
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def running(stack: Stack, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    addresses = stack.addresses
    home = tmp_path_factory.mktemp("plant")
    with plant(home, addresses.kafka_bootstrap, addresses.database_url, template_database) as made:
        start_three(made)
        yield made


@pytest.mark.failpoints
@pytest.mark.parametrize(("point", "door"), POINTS)
async def test_killed_there_what_was_answered_is_counted_once(running: Plant, point: str, door: str) -> None:
    journal = running.journal(f"{point}-{door}", running.pods[door])
    async with journal.load():
        await journal.more()
        await kill_under_load(running, point)
        await journal.more()
    await running.settled(journal)


@pytest.mark.failpoints(DOOR)
async def test_killed_there_what_a_producer_on_kafka_got_acked_is_counted_once(running: Plant) -> None:
    journal = running.journal("raw", running.pods["direct"])
    await kill_at_the_kafka_door(running, journal)
    await running.settled(journal)


@pytest.mark.failpoints(PURGE)
async def test_killed_before_the_purge_nothing_is_missing_and_the_next_start_purges(running: Plant) -> None:
    journal = running.journal("purge", running.pods["edge"])
    await journal.send(200)
    await running.settled(journal)
    assert await rows_in_spool(running) > 0
    await kill_before_a_purge(running)
    await eventually(lambda: rows_in_spool(running), lambda rows: rows == 0)
    await journal.send(10)
    await running.settled(journal)


async def rows_in_spool(running: Plant) -> int:
    with closing(sqlite3.connect(f"file:{running.spool('edge')}?mode=ro", uri=True)) as spool:
        [(rows,)] = spool.execute("SELECT count(*) FROM batch").fetchall()
    return int(rows)
