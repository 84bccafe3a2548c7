"""Numbered SQL files, applied once each, in order, by the owner role.

1  take the advisory lock (two migrations starting together: the second waits, then finds nothing to do)
2  refuse when an applied file has changed since (checksum) or the database is newer than the code
3  each file in one transaction with its row in `public.khata_migration`
                                crash between two files: the next run goes on with the second
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import psycopg

from shared.domain.errors import Misconfigured
from shared.postgres.pool import Connection, database_errors

FOLDER = Path(__file__).parent / "migrations"
_LOCK = 0x6B68617461  # "khata"
_NAME = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    text: str

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.text.encode()).digest()


def migrations(folder: Path = FOLDER) -> list[Migration]:
    """All files in order. Raises Misconfigured for a bad name, or a number that is missing or doubled."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = _NAME.match(path.name)
        if match is None:
            raise Misconfigured(f"migration {path.name} is not named NNNN_words.sql")
        found.append(Migration(int(match[1]), path.name, path.read_text()))
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise Misconfigured("migration numbers must run 0001, 0002, ... without gap")
    return found


def migrate(owner_url: str, folder: Path = FOLDER) -> list[str]:
    """Apply what is missing; returns the names applied. Raises DatabaseAway, Misconfigured."""
    wanted = migrations(folder)
    with database_errors(), psycopg.connect(owner_url, autocommit=True, connect_timeout=5) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        connection.execute("SET lock_timeout = '10s'")
        connection.execute(
            """
            CREATE TABLE IF NOT EXISTS public.khata_migration (
                number integer PRIMARY KEY,
                name text NOT NULL,
                sha256 bytea NOT NULL,
                applied_at timestamptz NOT NULL DEFAULT now()
            )
            """
        )
        connection.execute("GRANT SELECT ON public.khata_migration TO PUBLIC")
        done: dict[int, bytes] = dict(
            connection.execute("SELECT number, sha256 FROM public.khata_migration").fetchall()
        )
        check(wanted, done)
        applied = []
        for migration in wanted:
            if migration.number in done:
                continue
            with connection.transaction():
                connection.execute(migration.text.encode())
                connection.execute(
                    "INSERT INTO public.khata_migration (number, name, sha256) VALUES (%s, %s, %s)",
                    (migration.number, migration.name, migration.sha256),
                )
            applied.append(migration.name)
        return applied


def check(wanted: list[Migration], done: dict[int, bytes]) -> None:
    """Raises Misconfigured when what is in the database is not a prefix of the files."""
    by_number = {migration.number: migration for migration in wanted}
    for number, sha256 in done.items():
        if number not in by_number:
            raise Misconfigured(
                f"the database has migration {number:04}, which this version of Khata does not know: "
                "run a newer version"
            )
        if by_number[number].sha256 != bytes(sha256):
            raise Misconfigured(f"{by_number[number].name} was changed after it was applied: add a new file instead")


async def require_current(connection: Connection) -> None:
    """A service's start: raises Misconfigured when the schema is older or newer than the code."""
    exists = await (await connection.execute("SELECT to_regclass('public.khata_migration')")).fetchone()
    done: dict[int, bytes] = {}
    if exists and exists[0]:
        rows = await (await connection.execute("SELECT number, sha256 FROM public.khata_migration")).fetchall()
        done = dict(rows)
    wanted = migrations()
    check(wanted, done)
    missing = [migration.name for migration in wanted if migration.number not in done]
    if missing:
        raise Misconfigured(
            f"the database schema is older than the code ({len(missing)} migrations missing, first {missing[0]}): "
            "run `khata db migrate`"
        )
