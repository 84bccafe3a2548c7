"""Webhook events: their bytes, their signature and when they are sent. Pure.

Sources: Razorpay's webhook documentation, and measurements of its test-mode deliveries for what that leaves open
(key order, escapes, headers, the retry ladder).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from services.payments.sandbox.objects import Entity, public

# Seconds of each attempt after the first, at an endpoint that answers at once with an error.
LADDER_S = (0, 6, 19, 40, 82, 165, 326, 650, 1293, 2577, 5140, 10268, 20508, 40989, 81953)
# Kept as gaps from the end of an attempt: an endpoint that times out sees its first retry after 11 s, not 6.
GAPS_S = tuple(later - earlier for earlier, later in pairwise(LADDER_S))
DAY_S = 86_400  # an event not delivered for this long disables the webhook
QUICK_S = 0.23  # these three are tried once more almost at once after a 5xx
QUICK_EVENTS = frozenset({"payment.authorized", "payment.captured", "order.paid"})


@dataclass(frozen=True)
class Event:
    """Something that happened, with the entities as they were at that moment."""

    name: str
    payload: dict[str, Entity]
    created_at: int


def envelope(account_id: str, event: Event) -> dict[str, Any]:
    """The event's JSON document. `payment_link.*` comes with its keys sorted and the link's creation time."""
    document: dict[str, Any] = {
        "entity": "event",
        "account_id": account_id,
        "event": event.name,
        "contains": list(event.payload),
        "payload": {name: {"entity": public(entity)} for name, entity in event.payload.items()},
        "created_at": event.created_at,
    }
    if event.name.startswith("payment_link."):
        document["created_at"] = event.payload["payment_link"]["created_at"]
        sorted_document: dict[str, Any] = json.loads(json.dumps(document, sort_keys=True))
        return sorted_document
    return document


def encode(document: Any) -> bytes:
    """Compact JSON with the escapes of Razorpay's encoder: `\\/` and `\\uXXXX`.

    A slash stands only inside strings in JSON, so replacing every one is safe.
    """
    return json.dumps(document, separators=(",", ":")).replace("/", "\\/").encode()


def sign(secret: str, body: bytes) -> str:
    """Lowercase hex HMAC-SHA256 of the raw body: the `X-Razorpay-Signature` header."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def headers(event_id: str, signature: str | None) -> dict[str, str]:
    """Headers of a delivery. Without a webhook secret there is no signature header at all."""
    known = {
        "Content-Type": "application/json",
        "User-Agent": "Razorpay-Webhook/v1",
        "X-Razorpay-Event-Id": event_id,
        "Request-Id": event_id,
        "Accept-Encoding": "gzip",
    }
    return known if signature is None else {**known, "X-Razorpay-Signature": signature}


@dataclass(frozen=True)
class Planned:
    """One copy of one event: `delay_s` from now, or never when `dropped`."""

    index: int
    delay_s: float
    dropped: bool


def plan(
    events: Sequence[Event],
    *,
    spread_s: float,
    shuffle_s: float,
    copies: int,
    drop_fraction: float,
    drop_events: frozenset[str],
    rng: random.Random,
) -> list[Planned]:
    """When each event of one change is first sent, with the disorder the knobs ask for.

    Undisturbed, events leave in their order, `spread_s` apart. `shuffle_s` adds a random delay to each copy, which
    also mixes the events of different payments. A dropped event is dropped with all its copies.
    """
    planned = []
    for index, event in enumerate(events):
        dropped = event.name in drop_events or rng.random() < drop_fraction
        for copy in range(1 + copies):
            delay_s = (index + copy) * spread_s + rng.uniform(0, shuffle_s)
            planned.append(Planned(index, delay_s, dropped))
    return planned


@dataclass(frozen=True)
class Step:
    """What follows a failed attempt: at `at` (epoch seconds) the next one, or, with `give_up`, disabling."""

    at: float
    rung: int
    quick_used: bool

    @property
    def give_up(self) -> bool:
        """Whether every rung of the ladder was tried: at `at` the webhook is disabled."""
        return self.rung > len(GAPS_S)


def after_failure(
    name: str, status: int | None, *, rung: int, quick_used: bool, now: float, event_at: float, scale: float
) -> Step:
    """The next step of a delivery whose attempt ended at `now` with `status` (None: no answer).

    `rung` counts the rungs already climbed. After the last one the webhook is disabled a (scaled) day after the event.
    """
    if rung == 0 and not quick_used and name in QUICK_EVENTS and status is not None and status >= 500:
        return Step(now + QUICK_S * scale, rung, quick_used=True)
    if rung < len(GAPS_S):
        return Step(now + GAPS_S[rung] * scale, rung + 1, quick_used)
    return Step(max(now, event_at + DAY_S * scale), len(GAPS_S) + 1, quick_used)
