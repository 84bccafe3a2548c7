"""The three loops of a spool, as a service keeps them running beside its own work.

Order at the end: the forwarder drains (its deadline), then the last statement is sent, so that a process
that stops empty has said so.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from shared.contracts.topics import Names
from shared.domain.errors import Retryable
from shared.observability import logging, names
from shared.runtime.pause import pause
from shared.spool.forward import DRAIN_DEADLINE_S, DRAIN_SILENCE_S, Forwarder, Send
from shared.spool.purge import Positions, purge_once
from shared.spool.registry import Publisher, register
from shared.spool.store import Spool

PURGE_EVERY_S = 600.0
PURGE_AGAIN_S = 30.0  # after a failure
CROWDED_S = 2.0  # between two looks at the room; while it is short, also between two purges
REGISTER_AGAIN_S = 1.0

log = logging.get(__name__)


async def keep(
    spool: Spool,
    send: Send,
    topics: Names,
    positions: Positions,
    stop: asyncio.Event,
    *,
    drain_s: float = DRAIN_DEADLINE_S,
    purge_every_s: float = PURGE_EVERY_S,
) -> None:
    """Register, then forward, publish and purge until `stop`, then drain. Raises SpoolBroken.

    `send` is `Producer.send`, `positions` `group_positions(...)` of the group that consumes what is spooled. Set
    `stop` when nothing more will be appended. A spool that is new stays closed (append raises
    SpoolNotRegistered) until Kafka answers for the first time.
    """
    drained = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_forward(spool, send, stop, drained, drain_s))
        group.create_task(_publish(spool, send, topics, drained))
        purging = group.create_task(_purge(spool, positions, stop, purge_every_s))
        await drained.wait()
        purging.cancel()  # it may wait for a Kafka that hangs; a purge that is cut goes on at the next start


async def _forward(spool: Spool, send: Send, stop: asyncio.Event, drained: asyncio.Event, drain_s: float) -> None:
    await Forwarder(spool, send).run(stop, drain_s, DRAIN_SILENCE_S)
    drained.set()


async def _publish(spool: Spool, send: Send, topics: Names, drained: asyncio.Event) -> None:
    while not drained.is_set():
        try:
            await register(spool, send, topics)
            break
        except Retryable as error:
            log.warning("spool.not_registered", spool=spool.id, error=str(error))
            await pause(drained, REGISTER_AGAIN_S)
    await Publisher(spool, send, topics).run(drained)


async def _purge(spool: Spool, positions: Positions, stop: asyncio.Event, every_s: float) -> None:
    while not stop.is_set():
        wait_s = every_s
        try:
            purged = await purge_once(spool, positions, datetime.now(UTC))
            if purged.events or purged.kept_rows:
                log.info("spool.purged", spool=spool.id, events=purged.events, kept_rows=purged.kept_rows)
        except Retryable as error:
            names.SPOOL_FAILURES.labels("purge").inc()
            log.warning("spool.not_purged", spool=spool.id, error=str(error))
            wait_s = min(every_s, PURGE_AGAIN_S)
        await _until_due_or_crowded(spool, stop, wait_s)


async def _until_due_or_crowded(spool: Spool, stop: asyncio.Event, wait_s: float) -> None:
    due = time.monotonic() + wait_s
    while not await pause(stop, min(CROWDED_S, wait_s)):
        if spool.crowded or time.monotonic() >= due:
            return
