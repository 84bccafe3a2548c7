"""Webhook events on their way: queued in the transaction that caused them, worked off by `courier`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.payments.sandbox import ids, webhooks
from services.payments.sandbox.account import DISABLED, Account
from services.payments.sandbox.webhooks import Event, Step

DUE = """
SELECT d.seq, d.rung, d.quick_used, e.id, e.name, e.body, e.signature, e.created_at
FROM deliveries d JOIN events e ON e.id = d.event_id
WHERE d.state = 'pending' AND d.next_at <= ?
ORDER BY d.next_at, d.seq LIMIT ?
"""
HISTORY = """
SELECT d.seq, d.event_id, e.name, e.body, e.signature, d.state, d.next_at, e.created_at
FROM deliveries d JOIN events e ON e.id = d.event_id WHERE d.seq > ? ORDER BY d.seq
"""
ATTEMPTS = "SELECT delivery, at, status, problem FROM attempts WHERE delivery > ? ORDER BY seq"


@dataclass(frozen=True)
class Delivery:
    """One copy of an event that is due. Body and signature are the same on every attempt."""

    seq: int
    rung: int
    quick_used: bool
    event_id: str
    name: str
    body: bytes
    signature: str | None
    event_at: float


def queue(account: Account, events: Sequence[Event]) -> None:
    """Store events and their deliveries. Call inside the transaction that changed the entities.

    Without a webhook URL, or while the webhook is disabled, events are kept but never sent, as at Razorpay.
    """
    connection, knobs, now = account.store.connection, account.knobs, account.clock()
    secret = account.webhook.secret.get_secret_value()
    event_ids = []
    for event in events:
        body = webhooks.encode(webhooks.envelope(account.settings.account_id, event))
        signature = webhooks.sign(secret, body) if secret else None
        event_ids.append(ids.bare())
        connection.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?)", (event_ids[-1], event.name, body, signature, now)
        )
    if not account.webhook.url or account.store.flag(DISABLED):
        return
    planned = webhooks.plan(
        events,
        spread_s=account.settings.spread_seconds,
        shuffle_s=knobs.shuffle_seconds,
        copies=knobs.duplicate_copies,
        drop_fraction=knobs.drop_fraction,
        drop_events=frozenset(knobs.drop_events),
        rng=account.rng,
    )
    connection.executemany(
        "INSERT INTO deliveries (event_id, state, next_at) VALUES (?, ?, ?)",
        [(event_ids[p.index], "dropped" if p.dropped else "pending", now + p.delay_s) for p in planned],
    )
    account.wake_courier.set()


def due(connection: sqlite3.Connection, now: float, limit: int) -> list[Delivery]:
    """Deliveries whose time has come, oldest first."""
    return [
        Delivery(
            seq=row["seq"],
            rung=row["rung"],
            quick_used=bool(row["quick_used"]),
            event_id=row["id"],
            name=row["name"],
            body=row["body"],
            signature=row["signature"],
            event_at=row["created_at"],
        )
        for row in connection.execute(DUE, (now, limit))
    ]


def next_due_at(connection: sqlite3.Connection, after: float) -> float | None:
    """When the next delivery after `after` falls due (epoch seconds)."""
    row = connection.execute(
        "SELECT min(next_at) AS at FROM deliveries WHERE state = 'pending' AND next_at > ?", (after,)
    ).fetchone()
    return None if row["at"] is None else float(row["at"])


def record(
    connection: sqlite3.Connection, delivery: Delivery, *, at: float, status: int | None, problem: str | None
) -> None:
    """Keep what one attempt came to."""
    connection.execute(
        "INSERT INTO attempts (delivery, at, status, problem) VALUES (?, ?, ?, ?)", (delivery.seq, at, status, problem)
    )


def delivered(connection: sqlite3.Connection, delivery: Delivery) -> None:
    """The endpoint took it."""
    connection.execute("UPDATE deliveries SET state = 'delivered' WHERE seq = ?", (delivery.seq,))


def postpone(connection: sqlite3.Connection, delivery: Delivery, step: Step) -> None:
    """The endpoint did not take it: climb a rung."""
    connection.execute(
        "UPDATE deliveries SET next_at = ?, rung = ?, quick_used = ? WHERE seq = ?",
        (step.at, step.rung, int(step.quick_used), delivery.seq),
    )


def disable_webhook(account: Account) -> None:
    """A day of failure: nothing is sent any more until a person enables the webhook again."""
    account.store.set_flag(DISABLED, str(account.now()))
    account.store.connection.execute("UPDATE deliveries SET state = 'abandoned' WHERE state = 'pending'")


def history(connection: sqlite3.Connection, after: int = 0) -> list[dict[str, Any]]:
    """Every delivery with a `seq` above `after` and its attempts, for tests and people."""
    attempts: dict[int, list[dict[str, Any]]] = {}
    for row in connection.execute(ATTEMPTS, (after,)):
        attempts.setdefault(row["delivery"], []).append(
            {"at": row["at"], "status": row["status"], "problem": row["problem"]}
        )
    return [
        {
            "seq": row["seq"],
            "event_id": row["event_id"],
            "event": row["name"],
            "state": row["state"],
            "created_at": row["created_at"],
            "next_at": row["next_at"] if row["state"] == "pending" else None,
            "signature": row["signature"],
            "body": row["body"].decode(),
            "attempts": attempts.get(row["seq"], []),
        }
        for row in connection.execute(HISTORY, (after,))
    ]
