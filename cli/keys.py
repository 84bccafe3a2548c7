"""`khata keys`: make, list, rotate and revoke API keys. Each change is one transaction, then catalogue.v1 is fed."""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import typer
import yaml

from cli.catalogue import ATTEMPTS, CatalogueSettings, drain
from shared.audit.append import operator
from shared.catalogue import key_changes, key_store
from shared.catalogue.key_changes import Change, Rotated
from shared.catalogue.key_store import NewKey, StoredKey
from shared.catalogue.keys import MadeKey
from shared.contracts.messages.activity import DOOR_PREFIX, UNKNOWN
from shared.contracts.messages.catalogue import Limit
from shared.contracts.topics import CATALOGUE
from shared.domain.errors import BrokerAway, DatabaseAway, Usage
from shared.postgres.current import current_database
from shared.postgres.pool import Connection, Database
from shared.runtime.output import Output, OutputOption, show, stderr, wait_for
from shared.runtime.settings import load
from shared.usage.activity import Activity, Step, read_activity

app = typer.Typer(help="API keys: who may send usage.", no_args_is_help=True)

LONGEST = timedelta(days=3650)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

T = TypeVar("T")


class Mode(StrEnum):
    LIVE = "live"
    TEST = "test"


class Scope(StrEnum):
    WRITE = "events:write"
    READ = "usage:read"


def duration(text: str) -> timedelta:
    """`90d`, `24h`, `30m`, `45s` or `0`. Raises Usage."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text.strip())
    if text.strip() == "0":
        return timedelta(0)
    if match is None:
        raise Usage(f"{text!r} is no duration: write 90d, 24h, 30m, 45s or 0")
    found = timedelta(**{_UNITS[match[2]]: int(match[1])})
    if found > LONGEST:
        raise Usage(f"{text} is longer than {LONGEST.days} days")
    return found


KeysOut = typer.Option(None, "--keys-out", help="write the new key here (mode 0600) instead of showing it")


@app.callback()
def group() -> None:
    """API keys: who may send usage."""


@app.command("create")
def create(
    project: str = typer.Option(help="the project it acts for"),
    name: str = typer.Option(help="what it is called in the project, like web-server"),
    mode: Mode = typer.Option(Mode.LIVE, help="test: its events are kept apart and never billed"),
    scope: list[Scope] = typer.Option([Scope.WRITE], help="what it may do; may be given again"),
    expires_in: str | None = typer.Option(None, help="90d, 24h, ...; never by default"),
    limit_per_second: int | None = typer.Option(None, min=1, max=1_000_000, help="events per second; none: unlimited"),
    burst: int | None = typer.Option(None, min=1, max=10_000_000, help="how many events may come at once"),
    keys_out: Path | None = KeysOut,
    output: Output = OutputOption,
) -> None:
    """Make a key. It is shown once, now, and stored nowhere."""
    if (limit_per_second is None) != (burst is None):
        raise Usage("--limit-per-second and --burst belong together")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", name):
        raise Usage(f"{name!r} cannot be a name: small letters, digits, - and _, at most 63, a letter or digit first")
    lifetime = duration(expires_in) if expires_in else None
    if lifetime == timedelta(0):
        raise Usage("--expires-in 0 would make a key that never works")
    limit = Limit(limit_per_second, burst) if limit_per_second and burst else None
    new = NewKey(project, name, [one.value for one in dict.fromkeys(scope)], limit, lifetime)
    settings = load(CatalogueSettings)
    made = MadeKey.under(settings.peppers, mode is Mode.LIVE)

    async def work(keys: Keys) -> StoredKey:
        return await keys.change(
            lambda connection: key_changes.create(connection, made, new, keys.as_operator),
            keep=lambda stored: file.write(stored.label, made.text),
        )

    with _KeyFile(keys_out) as file:
        stored, fed = wait_for(_with_keys(settings, work))
    _show_new(stored, made, keys_out, output, {})
    _require_fed(fed)


@app.command("list")
def list_keys(
    project: str | None = typer.Option(None, help="of this project only"), output: Output = OutputOption
) -> None:
    """Every key, also those that are over. What is secret about them is stored nowhere."""

    async def work(keys: Keys) -> list[StoredKey]:
        async with keys.database.connection() as connection:
            return await key_store.read(connection, project=project)

    found, _ = wait_for(_with_keys(load(CatalogueSettings), work, feed=False))
    show([_row(key) for key in found], output)


@app.command("rotate")
def rotate(
    target: str = typer.Argument(help="PROJECT/NAME, or the id of the key that is to be replaced"),
    grace: str = typer.Option("24h", help="how long the old key still works: 24h, 30m, 0"),
    expires_in: str | None = typer.Option(None, help="lifetime of the new key; by default that of the old one"),
    keys_out: Path | None = KeysOut,
    output: Output = OutputOption,
) -> None:
    """Make a new key under the same name. Both work until the grace ends; then the old one does not."""
    for_old, lifetime = duration(grace), duration(expires_in) if expires_in else None
    settings = load(CatalogueSettings)
    made: list[MadeKey] = []

    async def work(keys: Keys) -> Rotated:
        async with keys.database.connection() as connection:
            seen = (await key_changes.find(connection, target))[-1]
            if "/" in target:
                seen = await key_store.holder(connection, seen.project_id, seen.name) or seen
        made.append(MadeKey.under(settings.peppers, seen.live))
        return await keys.change(
            lambda connection: key_changes.rotate(connection, made[0], seen, for_old, lifetime, keys.as_operator),
            keep=lambda rotated: file.write(rotated.new.label, made[0].text),
        )

    with _KeyFile(keys_out) as file:
        rotated, fed = wait_for(_with_keys(settings, work))
    old_until = rotated.old.expires_at
    _show_new(rotated.new, made[0], keys_out, output, {"replaces": rotated.old.id, "old_works_until": old_until})
    for key in rotated.ended:
        stderr.print(f"{key.id}, still in the grace of an earlier rotation, has ended")
    _require_fed(fed)


@app.command("revoke")
def revoke(
    target: str = typer.Argument(help="PROJECT/NAME (every key of that name) or a key's id"),
    reason: str = typer.Option("", help="why, for the audit"),
    output: Output = OutputOption,
) -> None:
    """End a key for good, within a second. Revoking it again is harmless."""

    async def work(keys: Keys) -> tuple[list[StoredKey], list[StoredKey]]:
        return await keys.change(lambda connection: key_changes.revoke(connection, target, reason, keys.as_operator))

    (now, before), fed = wait_for(_with_keys(load(CatalogueSettings), work))
    rows = [_row(key) | {"outcome": "revoked"} for key in now]
    show([*rows, *(_row(key) | {"outcome": "was revoked before"} for key in before)], output)
    _require_fed(fed)


@app.command("activity")
def activity(
    target: str = typer.Argument(help="PROJECT/NAME (every key of that name), a key's id, or `unknown`"),
    since: str = typer.Option("24h", help="how far back: 24h, 7d; kept are 35 days"),
    output: Output = OutputOption,
) -> None:
    """What a key did, per hour (per day beyond two days): events, failed calls, client addresses. Times are UTC."""
    back = duration(since)
    step: Step = "hour" if back <= timedelta(days=2) else "day"

    async def work(keys: Keys) -> list[Activity]:
        async with keys.database.connection() as connection:
            named = target == UNKNOWN or target.startswith(DOOR_PREFIX)
            ids = [target] if named else [key.id for key in await key_changes.find(connection, target)]
            return await read_activity(connection, ids, datetime.now(UTC) - back, step)

    found, _ = wait_for(_with_keys(load(CatalogueSettings), work, feed=False))
    show([_activity_row(one, output) for one in found], output)


def _activity_row(one: Activity, output: Output) -> dict[str, Any]:
    failed = ", ".join(f"{code} {calls}" for code, calls in sorted(one.failed.items()))
    row = asdict(one) | {"since": one.since.isoformat(), "last_used": one.last_used.isoformat()}
    if output is Output.JSON:
        return row
    more = "+" if row.pop("addresses_overflow") else ""
    return row | {"failed": failed, "addresses": f"{one.addresses}{more}"}


@app.command("peppers")
def peppers(output: Output = OutputOption) -> None:
    """Which peppers (KEY_PEPPERS) are still needed: one without usable keys may be dropped."""
    settings = load(CatalogueSettings)

    async def work(keys: Keys) -> dict[str, tuple[int, int]]:
        async with keys.database.connection() as connection:
            return await key_store.peppers_in_use(connection)

    used, _ = wait_for(_with_keys(settings, work, feed=False))
    show(pepper_rows(list(settings.peppers), used), output)


def pepper_rows(given: Sequence[str], used: dict[str, tuple[int, int]]) -> list[dict[str, Any]]:
    """One row per pepper that is set or used; the first one given is for new keys."""
    rows = []
    for pepper in dict.fromkeys([*given, *used]):
        usable, over = used.get(pepper, (0, 0))
        if pepper not in given:
            advice = "missing: its keys are refused" if usable else "gone, and not needed"
        elif pepper == given[0]:
            advice = "for new keys"
        else:
            advice = "needed" if usable else "may be dropped"
        rows.append({"pepper": pepper, "usable_keys": usable, "keys_over": over, "advice": advice})
    return rows


@app.command("publish")
def publish(
    everything: bool = typer.Option(False, "--all", help="tell every key again, not only what is pending"),
    output: Output = OutputOption,
) -> None:
    """Feed catalogue.v1 with what is stored but not yet there, when Kafka was away."""

    async def work(keys: Keys) -> int:
        if not everything:
            return 0
        return await keys.change(lambda connection: key_changes.publish_all(connection, keys.as_operator))

    told, fed = wait_for(_with_keys(load(CatalogueSettings), work))
    _require_fed(fed)
    show([{"topic": "catalogue.v1", "keys_told_again": told, "pending": 0}], output)


@dataclass(frozen=True, slots=True)
class Keys:
    """A database to change keys in."""

    database: Database
    as_operator: Change

    async def change(self, work: Callable[[Connection], Awaitable[T]], keep: Callable[[T], None] = lambda _: None) -> T:
        """One transaction, tried again while another holds the lock or the answer to COMMIT is lost.

        `keep` comes right before COMMIT: a key that cannot be written down is not made.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with self.database.transaction() as connection:
                    done = await work(connection)
                    keep(done)
                return done
            except DatabaseAway:
                if attempt == ATTEMPTS:
                    raise
                await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311
        raise AssertionError


async def _with_keys(
    settings: CatalogueSettings, work: Callable[[Keys], Awaitable[T]], *, feed: bool = True
) -> tuple[T, bool]:
    """What `work` returns, and whether catalogue.v1 was fed afterwards."""
    topic = settings.names.topic(CATALOGUE)
    async with current_database(settings, "khata_catalogue", "keys") as database:
        done = await work(Keys(database, Change(operator(), topic)))
        if not feed:
            return done, True
        try:
            await drain(settings, database, topic)
        except BrokerAway as away:
            stderr.print(f"{away}", style="yellow")
            return done, False
    return done, True


def _require_fed(fed: bool) -> None:
    if not fed:
        raise BrokerAway("the change is stored, but Kafka was not told: run `khata keys publish` until it is")


class _KeyFile:
    """The file for a new key: taken before anything is made, written before COMMIT, gone when nothing was made."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._written = False

    def __enter__(self) -> _KeyFile:
        if self._path is not None:
            try:
                os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            except FileExistsError:
                raise Usage(f"{self._path} exists: name a new file, keys are never overwritten") from None
            except OSError as error:
                raise Usage(f"{self._path}: {error.strerror}") from None
        return self

    def write(self, label: str, text: str) -> None:
        if self._path is not None:
            with self._path.open("w") as file:
                yaml.safe_dump({"keys": {label: text}}, file)
                file.flush()
                os.fsync(file.fileno())
            self._written = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        # Postgres may have committed although its answer was lost: then the key is in the file.
        if self._path is not None and error is not None and not (self._written and isinstance(error, DatabaseAway)):
            self._path.unlink(missing_ok=True)


def _show_new(key: StoredKey, made: MadeKey, keys_out: Path | None, output: Output, more: dict[str, Any]) -> None:
    row = _row(key) | more
    if keys_out is None:
        row["key (shown once)"] = made.text
    else:
        stderr.print(f"the key is in {keys_out}")
    show([row], output)


def _row(key: StoredKey) -> dict[str, Any]:
    return {
        "key": key.label,
        "key_id": key.id,
        "mode": "live" if key.live else "test",
        "state": key.state,
        "scopes": " ".join(key.scopes),
        "limit": f"{key.limit.per_second}/s, burst {key.limit.burst}" if key.limit else None,
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
        "replaced_by": key.replaced_by,
        "pepper": key.pepper_id,
        "created_at": key.created_at.isoformat(),
    }
