"""Accept: nobody is told "yes" before every record is acknowledged by Kafka, or fsynced in the spool (durable.py)."""

from __future__ import annotations

from collections.abc import Sequence

from shared.contracts.headers import CLOUDEVENT_JSON, CONTENT_TYPE
from shared.contracts.messages.event import StampedEvent, encode_event, event_key
from shared.contracts.topics import USAGE_EVENTS, Names
from shared.kafka.producer import AckedSender
from shared.observability import names as metrics
from shared.postgres.outbox import OutboxMessage

_HEADERS = ((CONTENT_TYPE, CLOUDEVENT_JSON),)


def message(event: StampedEvent, names: Names) -> OutboxMessage:
    """Keyed by project and subject: retries of an event meet its first copy on the same partition."""
    return OutboxMessage(
        topic=names.topic(USAGE_EVENTS),
        key=event_key(event.project, event.subject),
        value=encode_event(event),
        headers=_HEADERS,
    )


async def accept(
    events: Sequence[StampedEvent], names: Names, producer: AckedSender, door: str, deadline_s: float
) -> None:
    """Returns once every event is in the log. Raises BrokerAway: the outcome is unknown, send the same ids again."""
    if not events:
        return
    await producer.send([message(event, names) for event in events], deadline_s)
    metrics.EVENTS_ACCEPTED.labels(door).inc(len(events))
