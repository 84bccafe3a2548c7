"""Forwarding: in order, until acked, marked once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from shared.domain.errors import BrokerAway
from shared.postgres.outbox import OutboxMessage
from shared.spool import forward
from shared.spool.errors import SpoolFull
from shared.spool.forward import Forwarder
from shared.spool.store import Spool, opened
from tests.support.spool import (
    TOPIC,
    MemoryLog,
    message,
    messages,
    number,
    registered,
    settings,
    unsent_numbers,
)
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "FIRST_PAUSE_S", 0.001)


def stopped() -> asyncio.Event:
    stop = asyncio.Event()
    stop.set()
    return stop


async def drain(spool: Spool, log: MemoryLog, **more: int) -> None:
    await Forwarder(spool, log.send, **more).run(stopped())


async def test_what_is_forwarded_is_marked_with_its_place_and_the_sums_agree(tmp_path: Path) -> None:
    spool = await registered(settings(tmp_path))
    for key in ("p/a", "p/b"):
        await spool.append(messages(0, 3, key=key))
    log = MemoryLog()
    await drain(spool, log)

    assert [m.key for m in log.records[TOPIC, ord("b") % 2]] == [b"p/b"] * 3
    assert await spool.places(0) == [
        (1, [(TOPIC, ord("a") % 2, 0), (TOPIC, ord("a") % 2, 1), (TOPIC, ord("a") % 2, 2)]),
        (4, [(TOPIC, ord("b") % 2, 0), (TOPIC, ord("b") % 2, 1), (TOPIC, ord("b") % 2, 2)]),
    ]
    state = await spool.state()
    assert (state.unsent_events, state.unsent_bytes, state.forwarded_total) == (0, 0, 6)
    assert state.oldest_unsent_at is None
    assert state.fingerprint == state.forwarded_fingerprint != (0, 0)
    await spool.close()
    async with opened(settings(tmp_path), "test") as again:
        await drain(again, log)
        assert (await again.state()).unsent_events == 0
    assert len(log.numbers()) == 6


async def test_kafka_away_is_waited_out_with_smaller_slices_and_every_key_keeps_its_order(tmp_path: Path) -> None:
    spool = await registered(settings(tmp_path))
    await spool.append(messages(0, 100))
    log = MemoryLog(away=3, lost_answers=2)
    await drain(spool, log, send_events=64)
    assert log.calls[:4] == [64, 32, 16, 8]
    seen = log.numbers()
    assert list(dict.fromkeys(seen)) == list(range(100))
    assert len(seen) == 100 + 8 + 4  # what got no answer was sent again
    assert (await spool.state()).unsent_events == 0
    await spool.close()


async def test_attempts_are_counted_in_the_file_until_the_ack(tmp_path: Path) -> None:
    spool = await registered(settings(tmp_path))
    await spool.append(messages(0, 1))
    for failures in (1, 2):
        await spool.failed_attempt(f"away {failures}")
    await spool.close()
    async with opened(settings(tmp_path), "test") as again:
        assert (again._file.totals.attempts, again._file.totals.attempt_error) == (2, "away 2")
        await drain(again, MemoryLog())
        assert again._file.totals.attempts == 0
        assert again._file._connection.execute("SELECT attempts FROM ack").fetchall() == [(3,)]


async def test_what_kafka_refuses_for_good_is_set_aside_alone_and_no_close_passes_over_it(tmp_path: Path) -> None:
    spool = await registered(settings(tmp_path))
    await spool.append(messages(0, 50))
    log = MemoryLog(refuse=lambda m: number(m) in (17, 18))
    await drain(spool, log)
    assert log.numbers() == [n for n in range(50) if n not in (17, 18)]
    state = await spool.state()
    assert (state.unsent_events, state.set_aside_events, state.forwarded_total) == (2, 2, 48)
    assert state.oldest_unsent_at is not None
    assert [(a.sequence, a.code, number(a.message)) for a in await spool.set_aside()] == [
        (18, "too_large", 17),
        (19, "too_large", 18),
    ]
    await spool.close()

    async with opened(settings(tmp_path), "test") as again:
        log.refuse, log.away = lambda m: number(m) == 18, 1
        await again.append(messages(50, 1))
        await drain(again, log)
        assert (await again.state()).set_aside_events == 1
        log.refuse = lambda _: False
        await drain(again, log)
        state = await again.state()
        assert (state.unsent_events, state.set_aside_events, state.oldest_unsent_at) == (0, 0, None)
        assert state.fingerprint == state.forwarded_fingerprint
        [(_, places), _] = await again.places(0)
        assert (places[16], places[17], places[18]) == ((TOPIC, 1, 16), (TOPIC, 1, 49), (TOPIC, 1, 50))


async def test_acks_that_cannot_be_marked_are_marked_later_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = await registered(settings(tmp_path))
    await spool.append(messages(0, 10))
    mark, refusals = spool.mark, [SpoolFull("no room")] * 3

    async def refused(sent):  # type: ignore[no-untyped-def]
        if refusals:
            raise refusals.pop()
        await mark(sent)

    monkeypatch.setattr(spool, "mark", refused)
    log = MemoryLog()
    await drain(spool, log)
    assert (log.numbers(), refusals, spool.unsent_events) == (list(range(10)), [], 0)
    await spool.close()


async def test_offsets_that_cannot_be_true_are_asked_for_again(tmp_path: Path) -> None:
    """A producer that finds its batch in the log already counts its offsets from -1."""
    spool = await registered(settings(tmp_path))
    await spool.append(messages(0, 5))
    log = MemoryLog()
    wrong = [[(1, -1), (1, 0), (1, 1), (1, 2), (1, 3)]]

    async def send(part: Sequence[OutboxMessage], deadline_s: float) -> list[tuple[int, int]]:
        acks = await log.send(part, deadline_s)
        return wrong.pop() if wrong else acks

    await Forwarder(spool, send).run(stopped())
    assert await spool.places(0) == [(1, [(TOPIC, 1, offset) for offset in range(5, 10)])]
    await spool.close()


async def test_it_waits_for_new_events_and_drains_before_it_ends(tmp_path: Path) -> None:
    spool = await registered(settings(tmp_path))
    log, stop = MemoryLog(), asyncio.Event()
    running = asyncio.ensure_future(Forwarder(spool, log.send).run(stop))
    for round in range(3):
        await spool.append(messages(round * 10, 10))
        await eventually(_value(lambda: len(log.numbers())), lambda seen, want=(round + 1) * 10: seen == want)
    await spool.append(messages(30, 10))
    stop.set()
    await running
    assert log.numbers() == list(range(40))
    assert spool.unsent_events == 0
    await spool.close()


async def test_the_drain_has_a_deadline_and_leaves_the_rest_for_the_next_start(tmp_path: Path) -> None:
    spool = await registered(settings(tmp_path))
    await spool.append(messages(0, 10))
    await asyncio.wait_for(Forwarder(spool, MemoryLog(away=10**9).send).run(stopped(), drain_s=0.1), 5)
    assert await unsent_numbers(spool) == list(range(10))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await Forwarder(spool, _hang).run(asyncio.Event())
    await drain(spool, log := MemoryLog())
    assert log.numbers() == list(range(10))
    await spool.close()


async def _hang(part: Sequence[OutboxMessage], deadline_s: float) -> list[tuple[int, int]]:
    await asyncio.Event().wait()
    raise BrokerAway("never")


async def test_a_spool_has_one_forwarder(tmp_path: Path) -> None:
    spool = await registered(settings(tmp_path))
    stop = asyncio.Event()
    running = asyncio.ensure_future(Forwarder(spool, MemoryLog().send).run(stop))
    await asyncio.sleep(0)
    with pytest.raises(AssertionError, match="one forwarder"):
        await Forwarder(spool, MemoryLog().send).run(stop)
    stop.set()
    await running
    await spool.close()


async def test_appending_goes_on_while_much_is_forwarded(tmp_path: Path) -> None:
    spool = await registered(settings(tmp_path))
    log, stop = MemoryLog(), asyncio.Event()
    running = asyncio.ensure_future(Forwarder(spool, log.send, send_events=500).run(stop))
    await asyncio.gather(*(spool.append([message(n * 100 + i) for i in range(100)]) for n in range(100)))
    stop.set()
    await running
    state = await spool.state()
    assert sorted(log.numbers()) == list(range(10_000))
    assert (state.unsent_events, state.fingerprint) == (0, state.forwarded_fingerprint)
    await spool.close()


def _value(of):  # type: ignore[no-untyped-def]
    async def probe():  # type: ignore[no-untyped-def]
        return of()

    return probe


async def test_a_drain_ends_when_nothing_gets_through_any_more_and_goes_on_while_something_does(tmp_path: Path) -> None:
    spool = await registered(settings(tmp_path))
    for call in range(4):
        await spool.append(messages(call * 10, 10))
    stop, log = asyncio.Event(), MemoryLog()
    stop.set()

    async def slow_then_silent(part: Sequence[OutboxMessage], deadline_s: float) -> list[tuple[int, int]]:
        await asyncio.sleep(0.2 if len(log.numbers()) < 20 else 3600)
        return await log.send(part, deadline_s)

    began = asyncio.get_running_loop().time()
    await Forwarder(spool, slow_then_silent, send_events=10).run(stop, drain_s=60, silence_s=0.3)
    assert asyncio.get_running_loop().time() - began < 30
    assert log.numbers() == list(range(20))
    assert await unsent_numbers(spool) == list(range(20, 40))
    await spool.close()
