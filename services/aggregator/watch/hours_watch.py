"""Between the stream of windows and the detectors of hours: one series' state in, state and findings out.

As for keys (`watch.py`): findings are acknowledged before the state is set, and nothing a record holds stops the
stream. Only series whose next hour is due are looked at, for there may be very many.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field

import msgspec

from services.aggregator.watch import hours
from services.aggregator.watch.hours_state import (
    Series,
    SeriesState,
    decode_key,
    decode_series,
    encode_key,
    encode_series,
)
from services.aggregator.watch.tell import tell
from shared.contracts.messages.anomaly import Anomaly
from shared.contracts.messages.event import event_key
from shared.contracts.messages.window import WindowMessage, decode_window
from shared.contracts.topics import Names
from shared.kafka.partitions import partition_of
from shared.kafka.producer import AckedSender
from shared.observability import logging
from shared.observability import names as metrics

AHEAD_S = 60.0  # of its append time: the database that wrote it has a wrong clock

log = logging.get(__name__)


def place_of(key: bytes, of: int) -> int:
    """The partition of a series: that of its project and subject, where its windows come from."""
    series = decode_key(key)
    return partition_of(event_key(series.project_id, series.subject), of)


@dataclass
class HoursWatch:
    """`states` holds encoded SeriesStates by encoded Series; one of them changes at a time."""

    states: MutableMapping[bytes, bytes]
    sender: AckedSender
    names: Names
    _now_s: dict[int, float] = field(default_factory=dict)  # by partition: how late it is where its windows come from
    _due: dict[int, dict[bytes, float]] = field(default_factory=dict)  # by partition
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def take(self, value: bytes | None, partition: int, appended_s: float) -> None:
        """One record of usage.windows.v1. Raises BrokerAway when a finding cannot be told."""
        try:
            window = decode_window(value or b"")
        except msgspec.MsgspecError as error:
            metrics.WATCH_READ.labels("unreadable").inc()
            log.warning("watch.unreadable", partition=partition, error=str(error))
            return
        if window.updated_at.timestamp() > appended_s + AHEAD_S:
            metrics.WATCH_READ.labels("ahead").inc()
            return
        now_s = max(self._now_s.get(partition, 0.0), _told_s(window))
        self._now_s[partition] = now_s
        if not window.live:  # nobody is billed for it
            return
        series = Series(window.project_id, window.subject, window.meter_id, window.meter_version, window.dimensions)

        def step(state: SeriesState) -> tuple[SeriesState | None, list[Anomaly]]:
            observed, findings = hours.observe(state, series, window)
            metrics.WATCH_READ.labels("again" if observed is state else "seen").inc()
            advanced, more = hours.advance(observed, series, now_s)
            return advanced, findings + more

        await self._step(partition, encode_key(series), step)

    def waited(self, partition: int, most_s: float) -> None:
        """Changes nothing: where no window comes at all, counting has stopped, not usage."""

    async def look(self, partitions: Sequence[int], of: int) -> None:
        """At the series of these (`of` so many) partitions whose next hour is over."""
        self._due = {partition: due for partition, due in self._due.items() if partition in partitions}
        if new := set(partitions) - self._due.keys():
            self._learn(new, of)
        for partition in partitions:
            now_s = self._now_s.get(partition, 0.0)
            for key in [key for key, due_s in self._due[partition].items() if due_s <= now_s]:

                def step(
                    state: SeriesState, key: bytes = key, now_s: float = now_s
                ) -> tuple[SeriesState | None, list[Anomaly]]:
                    return hours.advance(state, decode_key(key), now_s)

                await self._step(partition, key, step)

    def _learn(self, partitions: set[int], of: int) -> None:
        """Partitions that are ours now: what is due there, and since when; time goes on where the states ended."""
        for partition in partitions:
            self._due.setdefault(partition, {})
        for key in list(self.states):
            if (partition := place_of(key, of)) in partitions:
                due_s = hours.due_s(self._state(key))
                self._due[partition][key] = due_s
                self._now_s[partition] = max(self._now_s.get(partition, 0.0), due_s - hours.HOUR_S)

    async def _step(
        self, partition: int, key: bytes, step: Callable[[SeriesState], tuple[SeriesState | None, list[Anomaly]]]
    ) -> None:
        async with self._one_at_a_time:
            before = self._state(key)
            after, findings = step(before)
            await tell(self.sender, self.names, findings)
            due = self._due.setdefault(partition, {})
            if after is None:
                due.pop(key, None)
                self.states.pop(key, None)
                return
            due[key] = hours.due_s(after)
            if after is not before:
                self.states[key] = encode_series(after)

    def _state(self, key: bytes) -> SeriesState:
        """What cannot be read, written by another version perhaps, is learned anew."""
        try:
            return decode_series(self.states.get(key))
        except msgspec.MsgspecError as error:
            metrics.WATCH_FAILURES.inc()
            log.warning("watch.state_unreadable", series=key.decode(errors="replace"), error=str(error))
            return SeriesState()


def _told_s(window: WindowMessage) -> float:
    """How late it was for usage when the window was told: what comes late of old hours moves no time."""
    return min(window.updated_at.timestamp(), window.hour.timestamp() + hours.HOUR_S)
