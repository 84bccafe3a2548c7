"""Between the stream and the detectors: one key's state in, state and findings out.

Findings are acknowledged by Kafka before the state is set: a crash between finds them again, under the same ids.
Nothing a record holds stops the stream: what cannot be read or handled is counted and passed over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field

import msgspec

from services.aggregator.watch import detect
from services.aggregator.watch.clock import StreamClock
from services.aggregator.watch.state import KeyState, decode_state, encode_state
from services.aggregator.watch.tell import tell
from shared.contracts.messages.activity import decode_activity
from shared.contracts.topics import Names
from shared.kafka.partitions import partition_of
from shared.kafka.producer import AckedSender
from shared.observability import logging
from shared.observability import names as metrics

AHEAD_MINUTES = 2  # of its append time; the process that wrote it has a wrong clock

log = logging.get(__name__)


@dataclass
class Watch:
    """`states` holds encoded KeyStates by key id; one of them changes at a time."""

    states: MutableMapping[bytes, bytes]
    sender: AckedSender
    names: Names
    monotonic: Callable[[], float] = time.monotonic
    _clocks: dict[int, StreamClock] = field(default_factory=dict)
    _touched: dict[int, float] = field(default_factory=dict)
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def take(self, value: bytes | None, partition: int, appended_s: float) -> None:
        """One record of key activity. Raises BrokerAway when a finding cannot be told."""
        try:
            activity = decode_activity(value or b"")
        except msgspec.MsgspecError as error:
            metrics.WATCH_READ.labels("unreadable").inc()
            log.warning("watch.unreadable", partition=partition, error=str(error))
            return
        minute = int(activity.minute.timestamp()) // 60
        if minute > appended_s // 60 + AHEAD_MINUTES:
            metrics.WATCH_READ.labels("ahead").inc()
            return
        clock = self._clock(partition)
        clock.saw(minute, appended_s)
        self._touched[partition] = self.monotonic()

        def step(state: KeyState) -> detect.Found:
            # As late as it was before the record, too: a silence that it ends is told however fast a backlog is read.
            before, ended = detect.advance(state, activity.key_id, min(minute * 60, clock.now_s))
            observed, findings = detect.observe(before, activity)
            metrics.WATCH_READ.labels("again" if observed is before else "seen").inc()
            advanced, more = detect.advance(observed, activity.key_id, clock.now_s)
            return advanced, ended + findings + more

        await self._step(activity.key_id.encode(), step)

    def waited(self, partition: int, most_s: float) -> None:
        """There is nothing unread on the partition: its time goes on, by at most so much."""
        now = self.monotonic()
        self._clock(partition).waited(min(most_s, now - self._touched.get(partition, now)))
        self._touched[partition] = now

    async def look(self, partitions: Sequence[int], of: int) -> None:
        """At every key of these (`of` so many) partitions: minutes that are complete, and silence."""
        self._go_on({partition for partition in partitions if not self._clock(partition).now_s}, of)
        for key in list(self.states):
            partition = partition_of(key, of)
            if partition in partitions and (now_s := self._clock(partition).now_s):
                await self._step(key, lambda state, key=key, now_s=now_s: detect.advance(state, key.decode(), now_s))  # type: ignore[misc]

    def _go_on(self, partitions: set[int], of: int) -> None:
        """Partitions of which nothing was read yet: time goes on where the states ended."""
        if not partitions:
            return
        for key in list(self.states):
            if (partition := partition_of(key, of)) in partitions:
                state = self._state(key)
                latest = max([state.judged, state.last, *state.waiting])
                self._clock(partition).saw(latest, (latest + 1) * 60)

    async def _step(self, key: bytes, step: Callable[[KeyState], detect.Found]) -> None:
        async with self._one_at_a_time:
            before = self._state(key)
            after, findings = step(before)
            await tell(self.sender, self.names, findings)
            if after is not before:
                self.states[key] = encode_state(after)

    def _state(self, key: bytes) -> KeyState:
        """What cannot be read, written by another version perhaps, is learned anew."""
        try:
            return decode_state(self.states.get(key))
        except msgspec.MsgspecError as error:
            metrics.WATCH_FAILURES.inc()
            log.warning("watch.state_unreadable", key_id=key.decode(errors="replace"), error=str(error))
            return KeyState()

    def _clock(self, partition: int) -> StreamClock:
        return self._clocks.setdefault(partition, StreamClock())
