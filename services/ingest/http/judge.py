"""What becomes of each event of a call, before Kafka is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from services.ingest.validate import Clock, Envelope, Sender, is_known, read_envelope, stamp
from shared.catalogue.cache import CatalogueCache
from shared.contracts.messages.event import StampedEvent
from shared.domain.errors import Rejected


@dataclass(frozen=True, slots=True)
class Verdict:
    """`errors` name what is refused by its index in the call; `stamped` holds the times Khata filled in, by index."""

    accepted: list[StampedEvent]
    errors: list[dict[str, Any]]
    stamped: dict[str, str]

    def document(self) -> dict[str, Any]:
        return {
            "accepted": len(self.accepted),
            "rejected": len(self.errors),
            "errors": self.errors,
            "times": self.stamped,
        }


async def judge(
    sources: Sequence[bytes | Envelope], sender: Sender, cache: CatalogueCache, horizon_days: int, ingest_id: str
) -> Verdict:
    """Check and stamp every event. What the catalogue does not know is looked up once more at the topic's end."""
    clock = Clock(datetime.now(UTC), timedelta(days=horizon_days))
    verdict = Verdict([], [], {})
    refresh = cache.refresh_once()
    any_type, zone = cache.accepts_unknown_types(sender.project), cache.zone_of(sender.project)
    for index, source in enumerate(sources):
        try:
            envelope = source if isinstance(source, Envelope) else read_envelope(source)
            # Where any type is taken nobody waits for that: the aggregator knows a new meter as soon as it counts.
            if not any_type and not is_known(envelope.type, cache.meters):
                await refresh()  # a meter may have been made a moment ago
            event = stamp(
                envelope,
                sender,
                cache.meters,
                clock,
                ingest_id,
                cache.version,
                accept_unknown_types=any_type,
                zone=zone,
            )
        except Rejected as error:
            verdict.errors.append({"index": index, "code": error.code, "message": error.message})
            continue
        verdict.accepted.append(event)
        if envelope.time is None:
            verdict.stamped[str(index)] = event.time.isoformat()
    return verdict
