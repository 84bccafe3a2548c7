"""The named places between accept and count, and a plant of three pods on which each is reached.

direct       HTTP and Kafka door, answers once Kafka has acked
edge         HTTP door, answers once its spool is fsynced; the forwarder carries it on
aggregator   counts both
"""

from __future__ import annotations

import asyncio

from shared.runtime import failpoints
from tests.support.journal import Journal
from tests.support.plant import Plant

DOOR = "ingest.door.before_commit"
PURGE = "spool.purge.before_delete"

# Where it is killed, and the pod that the load comes to meanwhile.
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


def start_three(plant: Plant) -> None:
    plant.start(
        # No days: what the aggregator has may be purged at once.
        plant.spooling("edge", INGEST_ACCEPT="spool", SPOOL_KEEP_DAYS="0"),
        plant.pod("direct"),
        plant.pod("aggregator", "aggregator"),
    )


async def kill_under_load(plant: Plant, point: str) -> None:
    """Somebody sends: whoever comes to the point first is killed there and started again."""
    failpoints.arm(plant.points, point)
    victim = await plant.kill_held(point)
    await asyncio.to_thread(victim.start)


async def kill_at_the_kafka_door(plant: Plant, journal: Journal) -> None:
    failpoints.arm(plant.points, DOOR)
    for _ in range(3):
        await journal.send_raw(plant.parts)
    victim = await plant.kill_held(DOOR)
    await journal.send_raw(plant.parts)
    await asyncio.to_thread(victim.start)


async def kill_before_a_purge(plant: Plant) -> None:
    """A purge runs at every start; everything in the spool must have been counted."""
    edge = plant.pods["edge"]
    await asyncio.to_thread(edge.kill)
    failpoints.arm(plant.points, PURGE)
    await asyncio.to_thread(edge.start)
    assert await plant.kill_held(PURGE) is edge
    await asyncio.to_thread(edge.start)
