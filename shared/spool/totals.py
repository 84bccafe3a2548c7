"""The spool's one-row table: its identity and its sums, written in the transaction of what they count."""

from __future__ import annotations

import sqlite3
from dataclasses import astuple, dataclass, fields

from shared.domain.identity import Fingerprint


@dataclass(frozen=True, slots=True)
class Totals:
    """Instants are microseconds since 1970 UTC. Sequence numbers start at 1 and have no gaps but named losses."""

    id: str
    registered_topic: str | None  # real name of `spools.v1` where Kafka acknowledged that this spool exists
    retired_at_us: int | None
    commits: int  # transactions since the file was made
    next_sequence: int  # of the next event
    sent_below: int  # every event below was acked or set aside
    accepted_total: int
    forwarded_total: int
    lost_total: int
    set_aside_total: int  # set aside now
    unsent_bytes: int
    fingerprint_high: int
    fingerprint_low: int
    forwarded_high: int
    forwarded_low: int
    clock_us: int  # last stamp given; stamps never run backwards
    attempts: int  # failed attempts at the events that are next
    attempted_at_us: int | None
    attempt_error: str | None

    @property
    def unsent_events(self) -> int:
        return self.accepted_total - self.forwarded_total

    @property
    def accepted_fingerprint(self) -> Fingerprint:
        return Fingerprint(self.fingerprint_high, self.fingerprint_low)

    @property
    def forwarded_fingerprint(self) -> Fingerprint:
        return Fingerprint(self.forwarded_high, self.forwarded_low)


_COLUMNS = tuple(field.name for field in fields(Totals))
_READ = f"SELECT {', '.join(_COLUMNS)} FROM spool"  # noqa: S608 (names of the dataclass above)
_WRITE = f"UPDATE spool SET {', '.join(f'{name} = ?' for name in _COLUMNS)}"  # noqa: S608
_INSERT = f"INSERT INTO spool (one, {', '.join(_COLUMNS)}) VALUES (1{', ?' * len(_COLUMNS)})"  # noqa: S608


def load(connection: sqlite3.Connection) -> Totals:
    row = connection.execute(_READ).fetchone()
    return Totals(*row)


def save(connection: sqlite3.Connection, totals: Totals) -> None:
    connection.execute(_WRITE, astuple(totals))


def create(connection: sqlite3.Connection, id: str) -> None:
    totals = Totals(id, None, None, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, None, None)
    connection.execute(_INSERT, astuple(totals))
