"""Where "yes" comes from: Kafka acked, or the spool fsynced.

Kafka first; when it does not ack in time the records go to the spool and a breaker sends the next calls there at
once, letting one at a time ask Kafka again. With `always_spool` (an edge far from its broker) everything goes to
the spool and the forwarder carries it on. Records that Kafka took after all are there twice, with one identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.domain.errors import BrokerAway, Rejected
from shared.kafka.producer import ACK_DEADLINE_S, AckedSender
from shared.observability import logging
from shared.postgres.outbox import OutboxMessage
from shared.runtime.breaker import Breaker
from shared.spool.errors import SpoolRefused
from shared.spool.store import Spool

log = logging.get(__name__)


@dataclass
class DurableSender:
    """An AckedSender that has a spool behind it."""

    kafka: AckedSender
    spool: Spool
    always_spool: bool = False
    breaker: Breaker = field(default_factory=Breaker)

    async def send(
        self, messages: Sequence[OutboxMessage], deadline_s: float = ACK_DEADLINE_S
    ) -> list[tuple[int, int]]:
        """Durable when it returns; the places in Kafka, or none for what is in the spool.

        Raises BrokerAway when neither took it, SpoolBroken (Fatal) when the file cannot be trusted, Rejected for
        what Kafka would never take.
        """
        if not self.always_spool and self.breaker.allows():
            try:
                places = await self.kafka.send(messages, deadline_s)
            except BrokerAway as away:
                self.breaker.failure()
                log.warning("ingest.spooling", error=str(away))
            except Rejected:
                self.breaker.success()  # Kafka has answered
                raise
            except BaseException:
                self.breaker.failure()
                raise
            else:
                self.breaker.success()
                return places
        try:
            await self.spool.append(messages)
        except SpoolRefused as refused:
            raise BrokerAway(f"neither Kafka nor the spool took the events: {refused}") from refused
        return []

    async def check(self) -> str | None:
        """Readiness: None once the spool takes events, whatever becomes of Kafka."""
        if self.spool.registered_topic is None:  # also while Kafka answers: "yes" must not depend on that for long
            return "the spool is not registered in Kafka yet"
        return None
