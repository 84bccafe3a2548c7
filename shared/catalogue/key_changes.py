"""Make, rotate and revoke keys: one transaction each, and what catalogue.v1 and the audit are told.

1  lock the catalogue (an operator and a catalogue file, two operators: one after the other)
2  see that what the operator looked at is still so
3  the rows, each with its next version; audit; outbox rows for catalogue.v1
                                   crash before COMMIT: nothing happened
4  COMMIT; the caller drains the outbox   crash before: `khata keys publish`, or any later change, does

The new key's id was chosen before: a second try after a lost answer to COMMIT finds it, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from shared.audit.append import append
from shared.catalogue import key_store
from shared.catalogue.key_store import NewKey, StoredKey
from shared.catalogue.keys import MadeKey
from shared.contracts.messages.catalogue import encode_catalogue, key_of
from shared.domain.errors import Usage
from shared.postgres import outbox
from shared.postgres.outbox import OutboxMessage
from shared.postgres.pool import Connection

NO_GRACE = timedelta(0)


@dataclass(frozen=True, slots=True)
class Change:
    """Who changes it (`operator()`), and the real name of catalogue.v1."""

    actor: str
    topic: str


@dataclass(frozen=True, slots=True)
class Rotated:
    """`old` still works until its `expires_at`; `ended` was still in the grace of an earlier rotation."""

    new: StoredKey
    old: StoredKey
    ended: Sequence[StoredKey] = ()


async def create(connection: Connection, made: MadeKey, new: NewKey, change: Change) -> StoredKey:
    """A key under a name that is free, or whose key is over. Raises Usage when the name is taken."""
    await key_store.lock(connection)
    if (mine := await key_store.by_id(connection, made.id)) is not None:
        return mine
    old = await key_store.holder(connection, new.project, new.name)
    if old is not None and not old.is_over:
        raise Usage(
            f"key {old.label} exists ({old.id}): `khata keys rotate {old.label}` makes a new one under its name, "
            "or choose another name"
        )
    changed = [await key_store.replace(connection, old, made.id, NO_GRACE)] if old else []
    stored = await key_store.insert(connection, made, new)
    await _tell(connection, change, "key.created", stored, {"after": old.id} if old else {})
    await _publish(connection, change, [stored, *changed])
    return stored


async def rotate(
    connection: Connection,
    made: MadeKey,
    seen: StoredKey,
    grace: timedelta,
    lifetime: timedelta | None,
    change: Change,
) -> Rotated:
    """Give the name of `seen`, its scopes and its limit to a new key; the old one works for `grace` more.

    A key that was in grace already ends now, so at most two of a name let anyone in. The new one lives as long as
    the old one was made for, or `lifetime`. Raises Usage when `seen` is over or no longer holds its name.
    """
    await key_store.lock(connection)
    if (mine := await key_store.by_id(connection, made.id)) is not None:
        old = await key_store.by_id(connection, seen.id)
        assert old is not None
        return Rotated(mine, old)
    current = await key_store.holder(connection, seen.project_id, seen.name)
    if current is None or current.id != seen.id:
        now = current.id if current else "none"
        raise Usage(f"key {seen.label} was rotated by somebody else just now: it is {now}, no longer {seen.id}")
    if current.is_over:
        raise Usage(f"key {seen.label} is {current.state}: `khata keys create` makes a new one under its name")
    ended = [
        await key_store.end_now(connection, key)
        for key in await key_store.read(connection, project=seen.project_id, name=seen.name)
        if key.state == "in grace"
    ]
    old = await key_store.replace(connection, current, made.id, grace)
    if lifetime is None and current.expires_at is not None:
        lifetime = current.expires_at - current.created_at
    wish = NewKey(current.project_id, current.name, current.scopes, current.limit, lifetime)
    new = await key_store.insert(connection, made, wish)
    told = {"replaces": old.id, "grace_ends_at": str(old.expires_at), "ended": [key.id for key in ended]}
    await _tell(connection, change, "key.rotated", new, told)
    await _publish(connection, change, [new, old, *ended])
    return Rotated(new, old, ended)


async def revoke(
    connection: Connection, target: str, reason: str, change: Change
) -> tuple[list[StoredKey], list[StoredKey]]:
    """Revoke a key by its id, or by `project/name` every key of that name, one in grace too.

    Returns those revoked now and those that were over before. Raises Usage when there is none.
    """
    await key_store.lock(connection)
    found = await find(connection, target)
    # one that is only expired needs no revoking, but saying so makes it final whatever a clock does
    now = [await key_store.revoke(connection, key) for key in found if key.revoked_at is None]
    for key in now:
        await _tell(connection, change, "key.revoked", key, {"reason": reason} if reason else {})
    await _publish(connection, change, now)
    return now, [key for key in found if key.revoked_at is not None]


async def publish_all(connection: Connection, change: Change) -> int:
    """Tell catalogue.v1 every key again, as it is: readers take what they lack. Returns how many."""
    await key_store.lock(connection)
    found = await key_store.read(connection)
    await _publish(connection, change, found)
    return len(found)


async def find(connection: Connection, target: str) -> list[StoredKey]:
    """The key with this id, or every key of `project/name`, the newest last. Raises Usage when there is none."""
    project, slash, name = target.partition("/")
    found = await (
        key_store.read(connection, project=project, name=name) if slash else key_store.read(connection, id=target)
    )
    if not found:
        raise Usage(f"there is no key {target}: name it as project/name or by its id; `khata keys list` shows all")
    return found


async def _tell(connection: Connection, change: Change, action: str, key: StoredKey, more: dict[str, Any]) -> None:
    await append(
        connection,
        actor=change.actor,
        action=action,
        object_kind="key",
        object_id=key.id,
        organisation_id=key.organisation_id,
        details={"key": key.label} | more,
    )


async def _publish(connection: Connection, change: Change, keys: Sequence[StoredKey]) -> None:
    messages = [key.message() for key in keys]
    await outbox.add(connection, [OutboxMessage(change.topic, key_of(one), encode_catalogue(one)) for one in messages])
