"""An aggregator that comes back to a backlog far larger than what it fetches at once holds little of it at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.stack import Stack
from tests.support.aggregators import aggregating, settled
from tests.support.feed import Feed
from tests.support.memory import needs_linux, peak_mb
from tests.support.plant import Plant

pytestmark = [pytest.mark.timeout(900), needs_linux]

MOST_MB = 400
SMALL_BYTES = 300  # of an event without padding
LONG_MB = 160  # ten times 4 MiB from each of 4 partitions


@pytest.fixture
def running(stack: Stack, template_database: str, tmp_path: Path) -> Iterator[Plant]:
    """One, with batches as they are by default."""
    servers = (stack.addresses.kafka_bootstrap, stack.addresses.database_url, template_database)
    defaults = {"AGGREGATOR_BATCH_RECORDS": "8000", "AGGREGATOR_BATCH_WAIT_MS": "200"}
    with aggregating(tmp_path, *servers, names=["one"], **defaults) as made:
        yield made


@pytest.mark.parametrize(
    ("padding_bytes", "megabytes", "most_mb"),
    [
        pytest.param(100_000, 32, 260, id="large"),  # 200 when it was written
        pytest.param(100_000, LONG_MB, MOST_MB, id="large-long", marks=pytest.mark.chaos),
        pytest.param(700_000, LONG_MB, MOST_MB, id="largest-long", marks=pytest.mark.chaos),
        pytest.param(0, LONG_MB, MOST_MB, id="small-long", marks=pytest.mark.chaos),
    ],
)
async def test_a_backlog_is_worked_off_within_the_memory_of_a_small_process(
    running: Plant, padding_bytes: int, megabytes: int, most_mb: int
) -> None:
    feed, pod = Feed(running.parts, padding_bytes=padding_bytes), running.pods["one"]
    await asyncio.to_thread(pod.terminate)
    size = padding_bytes + SMALL_BYTES
    await feed.fill((megabytes << 20) // size, per_send=max(1, 1_000_000 // size))
    await asyncio.to_thread(pod.start)
    await settled(running, feed, deadline_s=600)
    print(f"{megabytes} MB of {size} bytes each: {peak_mb(pod.pid)} MB at most")
    assert peak_mb(pod.pid) < most_mb
