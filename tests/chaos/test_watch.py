"""Watch and the counting of processes through what happens to a deployment: Kafka gone for a while, a watch killed."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared.contracts.messages.anomaly import Class
from shared.kafka import topics
from tests.conftest import Parts
from tests.integration.aggregator.test_watch import KEYS, found, publish
from tests.integration.ingest.test_shared_limits import counted_by
from tests.support.activity import HOME, minute, steady
from tests.support.broker import private_broker
from tests.support.catalogue import apply_document
from tests.support.pods import Pod
from tests.support.waiting import eventually

pytestmark = pytest.mark.chaos

MOVING, TIMEKEEPER, STOPPING = KEYS[:3]
AWAY_S = 25.0  # longer than the beats by which a dead process is told from a living one


async def test_an_outage_of_kafka_makes_no_process_dead_no_key_silent_and_ends_by_itself(
    database_url: str, prefix: str, tmp_path: Path
) -> None:
    start = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=3)
    with private_broker(database_url) as broker:
        broker.start()
        parts = Parts(database_url, broker.bootstrap, prefix)
        await topics.apply(parts.kafka, dev=True)
        await apply_document(parts)
        ingest = [Pod(f"i{number}", "ingest", tmp_path, parts.env) for number in (1, 2)]
        watch = Pod("w1", "watch", tmp_path, parts.env)
        try:
            for pod in (*ingest, watch):
                pod.start()
            await counted_by(ingest, 2)
            await publish(parts, [r for key in (MOVING, TIMEKEEPER) for r in steady(90, key_id=key, start=start)])
            broker.kill()
            began = time.monotonic()
            while time.monotonic() - began < AWAY_S:
                await counted_by(ingest, 2)
                await asyncio.sleep(0.5)
            broker.start()
            await counted_by(ingest, 2)
            if watch.child is not None and watch.child.exit_code is not None:
                assert watch.child.exit_code == 69  # a dependency was away: whoever keeps it running starts it again
                watch.start()
            await publish(parts, [minute(90, key_id=MOVING, start=start, addresses=(*HOME, "p1.ffff"))])
            anomalies = await eventually(lambda: found(parts), lambda some: len(some) >= 1, 120)
            assert [one.found for one in anomalies] == [Class.NEW_ADDRESS]
            await counted_by(ingest, 2, 30.0)
        finally:
            for pod in (*ingest, watch):
                if pod.child is not None and pod.child.exit_code is None:
                    pod.terminate()


async def test_another_watch_takes_over_from_one_that_was_killed(parts: Parts, tmp_path: Path) -> None:
    start = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=3)
    pods = [Pod(f"w{number}", "watch", tmp_path, parts.env) for number in (1, 2)]
    try:
        for pod in pods:
            pod.start()
        keys = (MOVING, TIMEKEEPER, STOPPING)
        await publish(parts, [r for key in keys for r in steady(90, key_id=key, start=start)])
        await publish(parts, [minute(90, key_id=MOVING, start=start, addresses=("p1.ffff",))])
        await eventually(lambda: found(parts), lambda some: len(some) == 1, 60)

        async def finders() -> list[Pod]:
            return [pod for pod in pods if "watch.found" in pod.log.read_text()]

        [holder] = await eventually(finders)
        holder.kill()
        await publish(parts, steady(30, key_id=TIMEKEEPER, start=start, first=91))
        await publish(parts, [minute(121, key_id=MOVING, start=start, addresses=("p1.ffff", "p1.eeee"))])
        anomalies = await eventually(lambda: found(parts), lambda some: len({one.id for one in some}) >= 4, 90)
        kinds = sorted((one.found.value, one.key_id) for one in {one.id: one for one in anomalies}.values())
        assert kinds == sorted(
            [
                ("new_address", MOVING),
                ("new_address", MOVING),
                ("silent", MOVING),
                ("silent", STOPPING),
            ]
        )
    finally:
        for pod in pods:
            if pod.child is not None and pod.child.exit_code is None:
                assert pod.terminate() == 0
