"""A Kafka of the test's own, to be killed, frozen and filled."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from devstack.stack import Stack, reset
from shared.contracts.topics import USAGE_EVENTS, Topic
from tests.conftest import Parts
from tests.support.pods import limit_files


@dataclass
class Broker:
    """One node; it comes back at the same address with the same data."""

    home: Path
    database_url: str = field(repr=False)
    _stack: Stack | None = field(default=None, init=False, repr=False)

    @property
    def bootstrap(self) -> str:
        return self._running.addresses.kafka_bootstrap

    @property
    def pid(self) -> int:
        return self._running.pids()["kafka"]

    @property
    def _running(self) -> Stack:
        assert self._stack is not None, "the broker was never started"
        return self._stack

    def start(self) -> None:
        """Returns once it answers."""
        before = self._stack
        if before is not None:
            before.stop()
        self._stack = Stack.start(self.home, database_url=self.database_url, report=lambda _: None)
        assert before is None or before.addresses == self._stack.addresses

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self._running.stop()

    def stop(self) -> None:
        self._running.stop()

    def pause(self) -> None:
        """It takes connections and bytes, and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def fill_disk(self, room_bytes: int) -> None:
        """No segment may grow by more than that. Kafka then gives its only log folder up, and itself.

        Files that exist at their full size (indexes are mapped) are not touched by the limit, so only appends fail.
        """
        logs = (self.home / "kafka" / "data").rglob("*.log")
        limit_files(self.pid, max(log.stat().st_size for log in logs) + room_bytes)

    def ended(self) -> bool:
        """Killed, or it has given up by itself."""
        return all(child.exit_code is not None for child in self._running._children)


@contextmanager
def private_broker(database_url: str, home: Path | None = None) -> Iterator[Broker]:
    """`database_url` is only handed on: no Postgres is started for it."""
    home = home or Path(tempfile.mkdtemp(prefix="khata-broker-"))
    home.chmod(0o755)
    broker = Broker(home, database_url)
    broker.start()
    try:
        yield broker
    finally:
        if not broker.ended():
            broker.resume()
        broker.stop()
        reset(home)


async def ends(parts: Parts, topic: Topic = USAGE_EVENTS) -> dict[int, int]:
    """End offset of each partition."""
    consumer = AIOKafkaConsumer(bootstrap_servers=parts.bootstrap)
    await consumer.start()
    try:
        name = parts.kafka.names.topic(topic)
        found = await consumer.end_offsets([TopicPartition(name, number) for number in range(topic.partitions)])
        return {at.partition: end for at, end in found.items()}
    finally:
        await consumer.stop()
