"""API keys as Postgres knows them, and what may become of one.

A name belongs to one key at a time: the one that nothing has replaced. Each change is the next version of its row;
what is over (revoked, expired) stays over (migration 0009 sees to it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from msgspec import UNSET, UnsetType
from psycopg.rows import class_row

from shared.catalogue.keys import MadeKey
from shared.contracts.messages.catalogue import ApiKeyMessage, Limit
from shared.domain.errors import Usage
from shared.postgres.pool import Connection

State = Literal["live", "in grace", "expired", "revoked"]

_LOCK = 0x6B636174  # "kcat"

# One query for all reads: commands of an operator may scan the table. The oldest key of a name first.
_READ = """
    SELECT id, organisation_id, project_id, version, name, live, secret_hash, pepper_id, scopes, expires_at, revoked_at,
        created_at, replaced_by, limit_per_second, limit_burst,
        revoked_at IS NOT NULL OR coalesce(expires_at <= now(), false) AS is_over
    FROM catalogue.api_key
    WHERE (%(id)s::text IS NULL OR id = %(id)s)
      AND (%(project)s::text IS NULL OR project_id = %(project)s)
      AND (%(name)s::text IS NULL OR name = %(name)s)
    ORDER BY project_id, name, created_at, id
"""


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a new key is to be; `lifetime` None: it does not expire, `limit` None: unlimited."""

    project: str
    name: str
    scopes: Sequence[str] = ("events:write",)
    limit: Limit | None = None
    lifetime: timedelta | None = None


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One row; `is_over` by the database's clock when it was read."""

    id: str
    organisation_id: str
    project_id: str
    version: int
    name: str
    live: bool
    secret_hash: bytes
    pepper_id: str
    scopes: list[str]
    expires_at: datetime | None
    revoked_at: datetime | None
    created_at: datetime
    replaced_by: str | None
    limit_per_second: int | None
    limit_burst: int | None
    is_over: bool

    @property
    def label(self) -> str:
        return f"{self.project_id}/{self.name}"

    @property
    def limit(self) -> Limit | None:
        return limit_of(self.limit_per_second, self.limit_burst) or None

    @property
    def state(self) -> State:
        if self.revoked_at is not None:
            return "revoked"
        if self.is_over:
            return "expired"
        return "live" if self.replaced_by is None else "in grace"

    def message(self) -> ApiKeyMessage:
        """The row as catalogue.v1 tells it."""
        return ApiKeyMessage(
            self.id,
            self.version,
            self.organisation_id,
            self.project_id,
            self.live,
            bytes(self.secret_hash).hex(),
            self.pepper_id,
            tuple(self.scopes),
            self.expires_at,
            self.revoked_at,
            limit_of(self.limit_per_second, self.limit_burst),
        )


def limit_of(per_second: int | None, burst: int | None) -> Limit | UnsetType:
    """A message's limit from its two columns."""
    return UNSET if per_second is None or burst is None else Limit(per_second, burst)


async def lock(connection: Connection) -> None:
    """Whoever changes the catalogue does so alone, until its transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))


async def read(
    connection: Connection, *, id: str | None = None, project: str | None = None, name: str | None = None
) -> list[StoredKey]:
    """The keys that fit everything given; of one name the oldest first."""
    async with connection.cursor(row_factory=class_row(StoredKey)) as cursor:
        await cursor.execute(_READ, {"id": id, "project": project, "name": name})
        return await cursor.fetchall()


async def holder(connection: Connection, project: str, name: str) -> StoredKey | None:
    """The key that holds the name now."""
    found = [key for key in await read(connection, project=project, name=name) if key.replaced_by is None]
    return found[0] if found else None


async def by_id(connection: Connection, id: str) -> StoredKey | None:
    found = await read(connection, id=id)
    return found[0] if found else None


async def insert(connection: Connection, made: MadeKey, new: NewKey) -> StoredKey:
    """Raises Usage when there is no such project."""
    limit = new.limit
    await connection.execute(
        """
        INSERT INTO catalogue.api_key
            (id, organisation_id, project_id, name, live, secret_hash, pepper_id, scopes, expires_at,
             limit_per_second, limit_burst)
        SELECT %s, organisation_id, id, %s, %s, %s, %s, %s, now() + %s::interval, %s, %s
        FROM catalogue.project WHERE id = %s
        """,
        (
            *(made.id, new.name, made.live, made.secret_hash, made.pepper_id, list(new.scopes), new.lifetime),
            *((limit.per_second, limit.burst) if limit else (None, None)),
            new.project,
        ),
    )
    stored = await by_id(connection, made.id)
    if stored is None:
        raise Usage(
            f"key {new.project}/{new.name}: there is no project {new.project}; `khata catalogue apply` makes it"
        )
    return stored


async def replace(connection: Connection, old: StoredKey, new_id: str, grace: timedelta) -> StoredKey:
    """Give the name up to the key `new_id`; valid for `grace` more, never longer than it was to be anyway."""
    await connection.execute(
        """
        UPDATE catalogue.api_key SET replaced_by = %(new)s, version = version + 1, updated_at = now(),
            expires_at = CASE
                WHEN revoked_at IS NOT NULL OR expires_at <= now() THEN expires_at
                ELSE least(expires_at, now() + %(grace)s::interval)
            END
        WHERE id = %(id)s
        """,
        {"id": old.id, "new": new_id, "grace": grace},
    )
    return await _again(connection, old)


async def end_now(connection: Connection, key: StoredKey) -> StoredKey:
    """Its grace ends with this transaction."""
    await connection.execute(
        """
        UPDATE catalogue.api_key SET expires_at = now(), version = version + 1, updated_at = now() WHERE id = %s
        """,
        (key.id,),
    )
    return await _again(connection, key)


async def revoke(connection: Connection, key: StoredKey) -> StoredKey:
    await connection.execute(
        """
        UPDATE catalogue.api_key SET revoked_at = now(), version = version + 1, updated_at = now() WHERE id = %s
        """,
        (key.id,),
    )
    return await _again(connection, key)


async def set_limit(connection: Connection, key: StoredKey, limit: Limit | None) -> StoredKey:
    """`limit` None: unlimited."""
    await connection.execute(
        """
        UPDATE catalogue.api_key SET limit_per_second = %s, limit_burst = %s, version = version + 1, updated_at = now()
        WHERE id = %s
        """,
        (*((limit.per_second, limit.burst) if limit else (None, None)), key.id),
    )
    return await _again(connection, key)


async def _again(connection: Connection, key: StoredKey) -> StoredKey:
    changed = await by_id(connection, key.id)
    assert changed is not None
    return changed


async def peppers_in_use(connection: Connection) -> dict[str, tuple[int, int]]:
    """By pepper id: keys that still let someone in, and keys that are over."""
    rows = await (
        await connection.execute(
            """
            SELECT pepper_id,
                count(*) FILTER (WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())),
                count(*) FILTER (WHERE revoked_at IS NOT NULL OR expires_at <= now())
            FROM catalogue.api_key GROUP BY pepper_id ORDER BY pepper_id
            """
        )
    ).fetchall()
    return {pepper: (usable, over) for pepper, usable, over in rows}
