"""Watch without Kafka: whose time it is, what a crash or a bad record costs, and that nothing is told too early."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from services.aggregator.watch.clock import StreamClock
from services.aggregator.watch.state import decode_state
from services.aggregator.watch.watch import Watch
from shared.contracts.messages.activity import KeyActivity, encode_activity
from shared.contracts.messages.anomaly import Anomaly, Class, decode_anomaly
from shared.contracts.topics import Names
from shared.domain.errors import BrokerAway
from shared.kafka.partitions import partition_of
from shared.postgres.outbox import OutboxMessage
from tests.support.activity import HOME, KEY, START, minute, steady

OF = 4
MINE = partition_of(KEY.encode(), OF)


@dataclass
class Told:
    """Stands for Kafka; `away` refuses so many sends."""

    messages: list[OutboxMessage] = field(default_factory=list)
    away: int = 0

    async def send(self, messages: Sequence[OutboxMessage], deadline_s: float = 1.0) -> list[tuple[int, int]]:
        if self.away:
            self.away -= 1
            raise BrokerAway("planted")
        self.messages += messages
        return [(0, 0)] * len(messages)

    @property
    def anomalies(self) -> list[Anomaly]:
        return [decode_anomaly(message.value or b"") for message in self.messages]


@dataclass
class World:
    told: Told = field(default_factory=Told)
    states: dict[bytes, bytes] = field(default_factory=dict)
    seconds: float = 0.0

    def watch(self) -> Watch:
        return Watch(self.states, self.told, Names("t."), lambda: self.seconds)


async def read(watch: Watch, records: list[KeyActivity], partition: int = MINE) -> None:
    """Each is appended when its minute is over."""
    for record in records:
        await watch.take(encode_activity(record), partition, record.minute.timestamp() + 61)


async def wait(world: World, watch: Watch, seconds: float, *, at_end: bool = True) -> None:
    for _ in range(int(seconds // 5)):
        world.seconds += 5
        if at_end:
            watch.waited(MINE, 10)
        await watch.look([MINE], OF)


async def test_a_key_that_stops_is_told_although_no_record_comes_any_more() -> None:
    world = World()
    watch = world.watch()
    await read(watch, steady())
    await wait(world, watch, 9 * 60)
    assert world.told.anomalies == []
    await wait(world, watch, 3 * 60)
    [found] = world.told.anomalies
    assert (found.found, found.minute, found.project_id) == (Class.SILENT, START + timedelta(hours=1), "acme-app")
    assert [(message.topic, message.key) for message in world.told.messages] == [("t.anomalies.v1", b"acme-app")]


async def test_while_something_is_unread_or_kafka_is_away_nobody_falls_silent() -> None:
    world = World()
    watch = world.watch()
    await read(watch, steady())
    await wait(world, watch, 3600, at_end=False)
    await read(watch, steady(first=60))
    await wait(world, watch, 300)
    assert world.told.anomalies == []


async def test_a_backlog_is_judged_by_its_own_minutes_and_a_key_that_stopped_in_it_is_found() -> None:
    world = World()
    watch = world.watch()
    other = next(name for n in range(99) if partition_of((name := f"other{n}").encode(), OF) == MINE)
    await read(watch, [record for pair in zip(steady(), steady(key_id=other), strict=True) for record in pair])
    await read(watch, steady(30, key_id=other, first=60))
    await watch.look([MINE], OF)
    assert [(one.found, one.key_id) for one in world.told.anomalies] == [(Class.SILENT, KEY)]


async def test_a_silence_that_ended_in_a_backlog_is_found_in_it() -> None:
    world = World()
    await read(world.watch(), [*steady(), *steady(first=90)])
    assert [(one.found, one.minute) for one in world.told.anomalies] == [(Class.SILENT, START + timedelta(hours=1))]


async def test_after_a_restart_time_goes_on_where_the_states_ended() -> None:
    world = World()
    await read(world.watch(), steady())
    again = world.watch()
    await wait(world, again, 12 * 60)
    assert [one.found for one in world.told.anomalies] == [Class.SILENT]


async def test_a_finding_that_was_not_acknowledged_is_found_again_under_the_same_id() -> None:
    world = World()
    watch = world.watch()
    await read(watch, [*steady(), minute(60, addresses=HOME)])
    before = dict(world.states)
    world.told.away = 1
    new = minute(61, addresses=("p1.ffff",))
    with pytest.raises(BrokerAway):
        await read(watch, [new])
    assert world.states == before
    await read(watch, [new])
    world.states |= before  # a crash before the changelog had it
    await read(world.watch(), [new])
    assert len(world.told.anomalies) == 2
    assert len({one.id for one in world.told.anomalies}) == 1


async def test_what_cannot_be_read_or_comes_from_a_wrong_clock_changes_nothing() -> None:
    world = World()
    watch = world.watch()
    await read(watch, steady(30))
    before = dict(world.states)
    now = minute(30).minute.timestamp()
    for value in (None, b"", b"{", b'{"minute": 5}', encode_activity(minute(30 + 24 * 60))):
        await watch.take(value, MINE, now)
    await watch.look([MINE], OF)
    assert world.states == before
    assert world.told.anomalies == []


async def test_a_state_that_cannot_be_read_is_learned_anew() -> None:
    world = World(states={KEY.encode(): b'{"seen": 5}'})
    watch = world.watch()
    await watch.look([MINE], OF)
    await read(watch, steady(30))
    assert decode_state(world.states[KEY.encode()]).last > 0


async def test_keys_of_partitions_that_are_anothers_are_left_alone() -> None:
    world = World()
    watch = world.watch()
    await read(watch, steady())
    for _ in range(1000):
        world.seconds += 5
        watch.waited(MINE, 10)
        await watch.look([number for number in range(OF) if number != MINE], OF)
    assert world.told.anomalies == []
    assert decode_state(world.states[KEY.encode()]).lasting == ()


def test_time_never_goes_back_and_no_record_moves_it_beyond_its_append() -> None:
    clock = StreamClock()
    clock.waited(500)
    assert clock.now_s == 0
    clock.saw(100, 6_070)
    assert clock.now_s == 6_060
    clock.saw(99, 6_080)
    clock.saw(10_000, 6_090)
    assert clock.now_s == 6_150
    clock.waited(5)
    assert clock.now_s == 6_155
