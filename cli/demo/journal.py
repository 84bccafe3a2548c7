"""The producers' own journal, in a SQLite file outside Khata's tables: what was sent and what was answered."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.demo.plan import Send

SCHEMA = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS send (
    number INTEGER PRIMARY KEY,
    door TEXT NOT NULL,
    project TEXT NOT NULL,
    source TEXT NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    subject TEXT NOT NULL,
    data TEXT NOT NULL,
    answer TEXT,            -- accepted | rejected; empty until there is one
    code TEXT,              -- why it was rejected
    partition INTEGER,      -- of the raw topic, for sends over Kafka
    log_offset INTEGER
);
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """One answered send."""

    number: int
    door: str
    project: str
    source: str
    id: str
    type: str
    subject: str
    data: str
    answer: str
    partition: int | None
    log_offset: int | None


class Journal:
    """One run. Written before sending and after each answer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database = sqlite3.connect(path)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.executescript(SCHEMA)

    def close(self) -> None:
        self._database.close()

    def about(self, **values: object) -> None:
        """Remember what the run was told: seed, month, organisations."""
        with self._database:
            self._database.executemany(
                "INSERT OR REPLACE INTO about VALUES (?, ?)", [(name, str(value)) for name, value in values.items()]
            )

    def read(self, name: str, default: str = "") -> str:
        row = self._database.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else default

    def intend(self, sends: Sequence[Send]) -> list[tuple[int, Send]]:
        """Write sends down before they are sent; returns them with their numbers."""
        with self._database:
            first = self._database.execute("SELECT coalesce(max(number), 0) + 1 FROM send").fetchone()[0]
            numbered = list(enumerate(sends, start=first))
            self._database.executemany(
                "INSERT INTO send (number, door, project, source, id, type, subject, data) VALUES (?,?,?,?,?,?,?,?)",
                [(n, s.door, s.project, s.source, s.id, s.type, s.subject, s.data) for n, s in numbered],
            )
        return numbered

    def accepted(self, numbers: Iterable[int], places: Iterable[tuple[int, int]] | None = None) -> None:
        """Answered yes; over Kafka with (partition, offset) of each."""
        where = list(places) if places is not None else None
        rows: list[tuple[Any, ...]] = [
            (*(where[index] if where is not None else (None, None)), number) for index, number in enumerate(numbers)
        ]
        with self._database:
            self._database.executemany(
                "UPDATE send SET answer = 'accepted', partition = ?, log_offset = ? WHERE number = ?", rows
            )

    def rejected(self, codes: Iterable[tuple[int, str]]) -> None:
        """Answered no: (number, code)."""
        with self._database:
            self._database.executemany(
                "UPDATE send SET answer = 'rejected', code = ? WHERE number = ?", [(c, n) for n, c in codes]
            )

    def unanswered(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM send WHERE answer IS NULL").fetchone()[0])

    def answered(self) -> Iterator[Sent]:
        """Every answered send, in the order in which they were written down."""
        yield from (
            Sent(*row)
            for row in self._database.execute(
                """
                SELECT number, door, project, source, id, type, subject, data, answer, partition, log_offset
                FROM send WHERE answer IS NOT NULL ORDER BY number
                """
            )
        )
