"""`spools.v1`: every spool is known before it accepts, and says how far it is.

    register   1  send the first statement, await the ack
               2  remember in the file that it was acked    crash before 2: announced, and accepting nothing
    retire     1  remember in the file that it accepts nothing more (only with nothing unsent)
               2  send the last statement                    crash before 2: the next start sends it
A close of a month waits for every spool that is announced and not retired, so one that accepted without
being announced would be forgotten; one that is announced and silent stops the close, and a person is asked.
"""

from __future__ import annotations

import asyncio

import msgspec

from shared.contracts.messages.spool import SpoolState, encode_spool
from shared.contracts.topics import SPOOLS, Names
from shared.domain.errors import Retryable
from shared.observability import logging, names
from shared.postgres.outbox import OutboxMessage
from shared.runtime.pause import first_of
from shared.spool.forward import Send
from shared.spool.store import Spool

STATEMENT_S = 2.0  # between two while something changes
# Also without change: a close waits for a statement that is younger than its cut-off.
SILENCE_S = 3.0
SEND_DEADLINE_S = 5.0
LAST_DEADLINE_S = 2.0  # of a process that ends

log = logging.get(__name__)


async def register(spool: Spool, send: Send, topics: Names) -> None:
    """Make sure the spool may accept. Raises BrokerAway when it was never announced and Kafka does not answer.

    Announced once (to this topic) is enough: a restart while Kafka is away goes on accepting.
    """
    topic = topics.topic(SPOOLS)
    if spool.registered_topic == topic:
        return
    await _send(await spool.state(), send, topic)
    await spool.remember_registered(topic)
    log.info("spool.registered", spool=spool.id, topic=topic)


async def retire(spool: Spool, send: Send, topics: Names) -> None:
    """The spool never accepts again. Raises SpoolNotRegistered while something is unsent, and BrokerAway."""
    await spool.retire()
    await _send(await spool.state(), send, topics.topic(SPOOLS))
    log.info("spool.retired", spool=spool.id)


class Publisher:
    """Sends the spool's statements: when it becomes empty, every 2 s while it changes, every 3 s in silence."""

    def __init__(
        self, spool: Spool, send: Send, topics: Names, *, statement_s: float = STATEMENT_S, silence_s: float = SILENCE_S
    ) -> None:
        self._spool, self._send, self._topic = spool, send, topics.topic(SPOOLS)
        self._statement_s, self._silence_s = statement_s, silence_s
        self._said: SpoolState | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, and once more then. Kafka away: the next statement says it all."""
        while not stop.is_set():
            await self.publish()
            await self._wait(stop)
        await self.publish(LAST_DEADLINE_S)

    async def publish(self, deadline_s: float = SEND_DEADLINE_S) -> bool:
        """Say how far the spool is, if that is news; True when Kafka has it, or had it."""
        self._spool.emptied.clear()
        state = await self._spool.state()
        if not self._is_news(state):
            return True
        try:
            await _send(state, self._send, self._topic, deadline_s)
        except Retryable as error:
            names.SPOOL_FAILURES.labels("publish").inc()
            log.warning("spool.statement_not_sent", spool=self._spool.id, error=str(error))
            return False
        self._said = state
        return True

    def _is_news(self, state: SpoolState) -> bool:
        said = self._said
        if said is None or (state.as_of - said.as_of).total_seconds() >= self._silence_s:
            return True
        return msgspec.structs.replace(state, as_of=said.as_of, file_bytes=said.file_bytes) != said

    async def _wait(self, stop: asyncio.Event) -> None:
        """The usual pause, cut short when the spool becomes empty or the process stops."""
        await first_of(stop, self._spool.emptied, seconds=self._statement_s)


async def _send(state: SpoolState, send: Send, topic: str, deadline_s: float = SEND_DEADLINE_S) -> None:
    await send([OutboxMessage(topic, state.spool_id.encode(), encode_spool(state))], deadline_s)
