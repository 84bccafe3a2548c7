"""Everything is read again, twice, from the log's beginning: no total, segment or identity changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from devstack.stack import Stack
from shared.kafka import rewind
from tests.support.aggregators import aggregating, nothing_found, settled
from tests.support.feed import Feed
from tests.support.letters import ask
from tests.support.plant import Plant
from tests.support.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

RECORDS = 60_000
REWIND = (
    "offsets",
    "rewind",
    "--group",
    "khata.aggregator",
    "--topic",
    "usage.events.v1",
    "--reason",
    "drill",
    "--yes",
)
WHAT_COUNTS = (
    "SELECT project_id, subject, meter_id, hour, count, sum, fingerprint_high, fingerprint_low, revision, updated_at "
    "FROM usage.window ORDER BY 1, 2, 3, 4",
    "SELECT partition, first_offset, record_count, dispositions, sha256 FROM usage.segment ORDER BY 1, 2",
    "SELECT generation, key, partition, log_offset FROM usage.identity ORDER BY 2",
    "SELECT partition, log_offset FROM usage.conflict ORDER BY 1, 2",
    "SELECT partition, log_offset FROM messaging.dead_letter ORDER BY 1, 2",
    "SELECT topic, partition, next_offset FROM messaging.consumer_offset "
    "WHERE consumer_group LIKE '%aggregator' ORDER BY 1, 2",
)


@pytest.fixture
def running(stack: Stack, template_database: str, tmp_path: Path) -> Iterator[Plant]:
    servers = (stack.addresses.kafka_bootstrap, stack.addresses.database_url, template_database)
    with aggregating(tmp_path, *servers, AGGREGATOR_GENERATION_KEYS="10000") as made:
        yield made


async def test_all_offsets_rewound_with_everything_applied(running: Plant) -> None:
    feed = Feed(running.parts)
    await feed.fill(RECORDS)
    await settled(running, feed)
    before = totals(running)
    for _ in range(2):
        await rewound(running)
        await settled(running, feed)
        assert totals(running) == before
    await nothing_found(running)


async def rewound(running: Plant) -> None:
    """Both end, the group's offsets are set back in Postgres and in Kafka, and both start."""
    group = running.parts.kafka.names.group("aggregator")
    for pod in running.pods.values():
        await asyncio.to_thread(pod.terminate)
    await eventually(lambda: rewind.members(running.parts.kafka, group), lambda alive: not alive)
    moved = await ask(running.parts, *REWIND, "--to", "beginning")
    assert {(row["target"], row["outcome"]) for row in moved} == {(0, "rewound")}
    assert set((await rewind.positions(running.parts.kafka, group)).values()) == {0}
    await asyncio.to_thread(running.start, *running.pods.values())


def totals(running: Plant) -> list[list[Any]]:
    with psycopg.connect(running.parts.database_url) as owner:
        return [owner.execute(query.encode()).fetchall() for query in WHAT_COUNTS]
