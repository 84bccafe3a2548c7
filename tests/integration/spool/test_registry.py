"""A spool is announced before it accepts, and says how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from shared.contracts.messages.spool import SpoolState
from shared.contracts.topics import SPOOLS, Names
from shared.domain.errors import BrokerAway
from shared.spool import forward
from shared.spool.errors import SpoolNotRegistered
from shared.spool.forward import Forwarder
from shared.spool.registry import Publisher, register, retire
from shared.spool.run import keep
from shared.spool.store import Spool, opened
from tests.support.spool import NAMES, MemoryLog, messages, registered, settings
from tests.support.waiting import eventually


async def test_the_first_event_waits_for_kafkas_ack_of_the_registration(tmp_path: Path) -> None:
    log = MemoryLog(away=1)
    async with opened(settings(tmp_path), "ingest-0") as spool:
        with pytest.raises(BrokerAway):
            await register(spool, log.send, NAMES)
        with pytest.raises(SpoolNotRegistered):
            await spool.append(messages(0, 1))
        await register(spool, log.send, NAMES)
        await spool.append(messages(0, 1))
        [said] = log.statements()
        assert (said.spool_id, said.instance, said.accepted_total) == (spool.id, "ingest-0", 0)


async def test_once_registered_a_restart_needs_no_kafka(tmp_path: Path) -> None:
    async with opened(settings(tmp_path), "test") as spool:
        await register(spool, MemoryLog().send, NAMES)
    async with opened(settings(tmp_path), "test") as again:
        await register(again, MemoryLog(away=10**9).send, NAMES)
        await again.append(messages(0, 1))


async def test_another_topic_must_hear_of_it_first(tmp_path: Path) -> None:
    async with opened(settings(tmp_path), "test") as spool:
        await register(spool, MemoryLog().send, NAMES)
        log = MemoryLog()
        await register(spool, log.send, Names("stage."))
        assert list(log.records) == [("stage." + SPOOLS.name, log.records and next(iter(log.records))[1])]


async def test_a_statement_is_said_when_it_is_news(tmp_path: Path) -> None:
    spool, log = await registered(settings(tmp_path)), MemoryLog()
    publisher = Publisher(spool, log.send, NAMES, silence_s=3600)
    for _ in range(3):
        assert await publisher.publish()
    assert len(log.statements()) == 1
    await spool.append(messages(0, 10))
    log.away = 1
    assert not await publisher.publish()
    assert await publisher.publish()
    assert [said.unsent_events for said in log.statements()] == [0, 10]
    assert await Publisher(spool, log.send, NAMES, silence_s=0).publish()
    await spool.close()


async def test_silence_is_broken_although_nothing_changes(tmp_path: Path) -> None:
    """A close waits for a word that is younger than its cut-off."""
    spool, log = await registered(settings(tmp_path)), MemoryLog()
    publisher = Publisher(spool, log.send, NAMES, silence_s=0.0)
    await publisher.publish()
    await publisher.publish()
    first, second = log.statements()
    assert second.as_of > first.as_of
    await spool.close()


async def test_it_says_at_once_that_it_is_empty(tmp_path: Path) -> None:
    spool, log, stop = await registered(settings(tmp_path)), MemoryLog(), asyncio.Event()
    publishing = asyncio.ensure_future(Publisher(spool, log.send, NAMES, statement_s=3600).run(stop))
    await spool.append(messages(0, 10))
    await eventually(_statements(log), lambda said: len(said) == 1)
    await Forwarder(spool, log.send).forward_once()
    said = await eventually(_statements(log), lambda said: len(said) == 2, deadline_s=5)
    assert (said[-1].unsent_events, said[-1].forwarded_total, said[-1].oldest_unsent_at) == (0, 10, None)
    assert said[-1].fingerprint == said[-1].forwarded_fingerprint
    stop.set()
    await publishing
    await spool.close()


async def test_a_retired_spool_says_so_for_ever(tmp_path: Path) -> None:
    spool, log = await registered(settings(tmp_path)), MemoryLog()
    await spool.append(messages(0, 1))
    with pytest.raises(SpoolNotRegistered):
        await retire(spool, log.send, NAMES)
    await Forwarder(spool, log.send).forward_once()
    log.away = 1
    with pytest.raises(BrokerAway):
        await retire(spool, log.send, NAMES)
    await retire(spool, log.send, NAMES)
    assert [said.retired for said in log.statements()] == [True]
    await spool.close()
    async with opened(settings(tmp_path), "test") as again:
        assert (await again.state()).retired
        with pytest.raises(SpoolNotRegistered):
            await again.append(messages(0, 1))


async def test_the_loops_together_register_forward_say_and_drain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("shared.spool.run.REGISTER_AGAIN_S", 0.001)
    log, stop, looked = MemoryLog(away=2), asyncio.Event(), asyncio.Event()

    async def positions() -> Mapping[tuple[str, int], int]:
        looked.set()
        return log.positions()

    async with opened(settings(tmp_path), "test") as spool:
        running = asyncio.ensure_future(keep(spool, log.send, NAMES, positions, stop))
        await eventually(_registered(spool))
        await spool.append(messages(0, 10))
        await asyncio.wait_for(looked.wait(), 5)
        stop.set()
        await asyncio.wait_for(running, 5)
        assert log.numbers() == list(range(10))
        last = log.statements()[-1]
        assert (last.accepted_total, last.unsent_events) == (10, 0)


def _registered(spool: Spool):  # type: ignore[no-untyped-def]
    async def probe() -> bool:
        return spool.registered_topic is not None

    return probe


def _statements(log: MemoryLog):  # type: ignore[no-untyped-def]
    async def probe() -> list[SpoolState]:
        return log.statements()

    return probe
