"""The log is not what it was under a stored offset: the process goes on and warns, or stops and says what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from devstack.stack import Stack
from shared.kafka import rewind, topics
from shared.runtime.service import EXIT_FAILURE
from tests.support.aggregators import aggregating, settled
from tests.support.feed import Feed, log_of
from tests.support.kafka import admin
from tests.support.letters import ask, events_topic
from tests.support.plant import Plant
from tests.support.pods import Pod
from tests.support.waiting import eventually

REWIND = ("offsets", "rewind", "--group", "khata.aggregator", "--topic", "usage.events.v1", "--reason", "test", "--yes")


@pytest.fixture
def stopped(stack: Stack, template_database: str, tmp_path: Path) -> Iterator[Plant]:
    """A plant whose aggregator has ended after everything was applied."""
    servers = (stack.addresses.kafka_bootstrap, stack.addresses.database_url)
    with aggregating(tmp_path, *servers, template_database, names=["one"]) as made:
        yield made


async def applied_and_stopped(running: Plant, feed: Feed, events: int = 300) -> Pod:
    pod = running.pods["one"]
    await feed.fill(events)
    await settled(running, feed)
    assert await asyncio.to_thread(pod.terminate) == 0
    return pod


async def ends_saying(pod: Pod, *words: str) -> None:
    """It ends with a failure, and each of the words is in its log."""
    said = len(pod.log.read_text())
    await asyncio.to_thread(pod.start, wait=False)
    assert await asyncio.to_thread(pod.wait) == EXIT_FAILURE
    told = pod.log.read_text()[said:]
    assert [word for word in words if word not in told] == [], told


async def test_records_that_retention_took_from_a_quiet_topic_are_missed_by_nobody(stopped: Plant) -> None:
    feed = Feed(stopped.parts)
    pod = await applied_and_stopped(stopped, feed)
    gone = await log_of(stopped.parts)
    await delete_before(stopped, stopped.offsets())
    feed.acked.clear()
    await asyncio.to_thread(pod.start)
    await feed.fill(100)
    await settled(stopped, feed, gone=gone)
    assert "retention took the last applied record" in pod.log.read_text()


async def test_records_that_retention_took_unread_stop_it_until_the_offset_is_moved(stopped: Plant) -> None:
    feed = Feed(stopped.parts)
    pod = await applied_and_stopped(stopped, feed)
    gone, lost = await log_of(stopped.parts), {number: end + 3 for number, end in stopped.offsets().items()}
    await feed.fill(100)
    await delete_before(stopped, lost)
    await ends_saying(pod, "retention took 3 records", "khata offsets rewind")
    await nobody_reads(stopped)
    moved = await ask(stopped.parts, *REWIND, "--to", "beginning")
    assert {row["partition"]: row["target"] for row in moved} == lost
    await asyncio.to_thread(pod.start)
    feed.acked = {place: value for place, value in feed.acked.items() if place[1] >= lost[place[0]]}
    await settled(stopped, feed, gone=gone)


async def test_a_topic_made_anew_stops_it_however_the_offset_is_moved(stopped: Plant) -> None:
    pod = await applied_and_stopped(stopped, Feed(stopped.parts))
    topic = events_topic(stopped.parts)
    for events, says in ((20, "truncated or made anew"), (600, "made anew")):
        await made_anew(stopped, topic)
        await Feed(stopped.parts, seed=2).fill(events)
        await ends_saying(pod, topic, says, "khata offsets rewind")
    await nobody_reads(stopped)
    await ask(stopped.parts, *REWIND, "--to", "beginning")
    await ends_saying(pod, topic, "made anew", "the archive has others")


async def delete_before(stopped: Plant, offsets: dict[int, int]) -> None:
    topic = events_topic(stopped.parts)
    async with admin(stopped.parts) as client:
        await client.delete_records(
            {TopicPartition(topic, number): RecordsToDelete(before_offset=end) for number, end in offsets.items()}
        )


async def made_anew(stopped: Plant, topic: str) -> None:
    async with admin(stopped.parts) as client:
        await client.delete_topics([topic])
        await eventually(client.list_topics, lambda names: topic not in names)
    await topics.apply(stopped.parts.kafka, dev=True)


async def nobody_reads(stopped: Plant) -> None:
    """As Kafka sees it, a few seconds after a process has ended."""
    group = stopped.parts.kafka.names.group("aggregator")
    await eventually(lambda: rewind.members(stopped.parts.kafka, group), lambda alive: not alive)
