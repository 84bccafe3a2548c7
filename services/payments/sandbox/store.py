"""The sandbox's ledger in one SQLite file.

One connection, used from the event loop's thread only: a transaction never awaits, so changes cannot interleave.
Write-ahead log with `synchronous=NORMAL`: what was committed survives the end of the process (not of the machine).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from services.payments.sandbox.objects import Entity, link_due_at

Kind = Literal["order", "payment", "payment_link", "refund"]

# Which field of an entity fills the columns `parent` and `reference`.
PARENT: dict[Kind, str] = {"order": "_link", "payment": "order_id", "refund": "payment_id"}
REFERENCE: dict[Kind, str] = {"order": "receipt", "payment_link": "reference_id"}

SCHEMA = Path(__file__).with_name("schema.sql")

PUT = """
INSERT INTO entities (kind, id, created_at, reference, parent, due_at, body)
VALUES (:kind, :id, :created_at, :reference, :parent, :due_at, :body)
ON CONFLICT (id) DO UPDATE SET reference = excluded.reference, due_at = excluded.due_at, body = excluded.body
"""
# Newest first; the three differ in the index they walk.
PAGE = """
SELECT body FROM entities
WHERE kind = :kind AND created_at BETWEEN :from AND :to
ORDER BY created_at DESC, seq DESC LIMIT :count OFFSET :skip
"""
PAGE_BY_REFERENCE = """
SELECT body FROM entities
WHERE kind = :kind AND reference = :reference AND created_at BETWEEN :from AND :to
ORDER BY created_at DESC, seq DESC LIMIT :count OFFSET :skip
"""
CHILDREN = "SELECT body FROM entities WHERE kind = ? AND parent = ? ORDER BY created_at DESC, seq DESC"


@dataclass(frozen=True)
class Page:
    """Which part of a list is asked for; `from_at` and `to_at` are inclusive epoch seconds."""

    count: int = 10
    skip: int = 0
    from_at: int = 0
    to_at: int = 2**62


class Store:
    """Entities by id, reference and parent, and a few flags. Webhook tables are `outbox`'s."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.row_factory = sqlite3.Row
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = NORMAL")
        self.connection.execute("PRAGMA foreign_keys = ON")
        self.connection.execute("PRAGMA busy_timeout = 5000")
        self.connection.executescript(SCHEMA.read_text(encoding="utf-8"))

    def close(self) -> None:
        """Close the file; a later start finds everything that was committed."""
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Must not be held across an `await`."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def get(self, entity_id: str) -> Entity | None:
        """The entity with this id, or None. Ids are case-sensitive."""
        row = self.connection.execute("SELECT body FROM entities WHERE id = ?", (entity_id,)).fetchone()
        return None if row is None else _entity(row)

    def put(self, kind: Kind, entity: Entity) -> None:
        """Store a new or changed entity. Raises `sqlite3.IntegrityError` for a link's reference_id used twice."""
        row = {
            "kind": kind,
            "id": entity["id"],
            "created_at": entity["created_at"],
            "reference": entity.get(REFERENCE.get(kind, "")) or None,
            "parent": entity.get(PARENT.get(kind, "")),
            "due_at": link_due_at(entity) if kind == "payment_link" else None,
            "body": json.dumps(entity, separators=(",", ":")),
        }
        self.connection.execute(PUT, row)

    def page(self, kind: Kind, page: Page, reference: str | None = None) -> list[Entity]:
        """One page of a kind, newest first; with `reference`, only those that carry it."""
        values: dict[str, Any] = {
            "kind": kind,
            "reference": reference,
            "from": page.from_at,
            "to": page.to_at,
            "count": page.count,
            "skip": page.skip,
        }
        rows = self.connection.execute(PAGE if reference is None else PAGE_BY_REFERENCE, values)
        return [_entity(row) for row in rows]

    def everything(self, kind: Kind) -> list[Entity]:
        """All entities of a kind in the order they were made."""
        rows = self.connection.execute("SELECT body FROM entities WHERE kind = ? ORDER BY seq", (kind,))
        return [_entity(row) for row in rows]

    def children(self, kind: Kind, parent: str) -> list[Entity]:
        """Payments of an order, or refunds of a payment, newest first."""
        return [_entity(row) for row in self.connection.execute(CHILDREN, (kind, parent))]

    def links_due(self, now: int) -> list[Entity]:
        """Open links whose time is up."""
        rows = self.connection.execute("SELECT body FROM entities WHERE due_at <= ? ORDER BY due_at", (now,))
        return [_entity(row) for row in rows]

    def refund_key(self, key: str) -> tuple[str, str] | None:
        """`(fingerprint, refund id)` of the request that first used an idempotency key."""
        row = self.connection.execute("SELECT fingerprint, refund_id FROM refund_keys WHERE key = ?", (key,)).fetchone()
        return None if row is None else (row["fingerprint"], row["refund_id"])

    def keep_refund_key(self, key: str, fingerprint: str, refund_id: str) -> None:
        """Remember an idempotency key together with the refund it made."""
        self.connection.execute("INSERT INTO refund_keys VALUES (?, ?, ?)", (key, fingerprint, refund_id))

    def flag(self, name: str) -> str | None:
        """A remembered fact about the account, such as that its webhook is disabled."""
        row = self.connection.execute("SELECT value FROM flags WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row["value"])

    def set_flag(self, name: str, value: str | None) -> None:
        """Remember a fact, or forget it with None."""
        if value is None:
            self.connection.execute("DELETE FROM flags WHERE name = ?", (name,))
        else:
            self.connection.execute("INSERT OR REPLACE INTO flags VALUES (?, ?)", (name, value))


def _entity(row: sqlite3.Row) -> Entity:
    entity: Entity = json.loads(row["body"])
    return entity
