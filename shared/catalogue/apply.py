"""Apply a catalogue file: one transaction for tables, epoch, audit and outbox.

1  lock the catalogue (two operators at once: one after the other), compare with what is there
2  write what differs, each with the next version; what a meter counted never changes
3  raise the epoch when batches must reload (project, zone or meter changed)
4  outbox rows for catalogue.v1      crash before COMMIT: nothing happened
5  COMMIT; the caller drains the outbox rows (crash before: the relay of any later apply does)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from typing import Any

from msgspec import UNSET

from shared.audit.append import append
from shared.catalogue import backfill, key_store
from shared.catalogue.backfill import Events
from shared.catalogue.file import CatalogueFile, KeyEntry, LimitEntry, OrganisationEntry, ProjectEntry
from shared.catalogue.key_store import NewKey, limit_of
from shared.catalogue.keys import MadeKey
from shared.catalogue.meter_entry import MeterEntry
from shared.contracts.messages.catalogue import (
    CatalogueMessage,
    Limit,
    MeterMessage,
    OrganisationMessage,
    ProjectMessage,
    encode_catalogue,
    key_of,
)
from shared.domain.definition import filters_json, group_by_json
from shared.domain.errors import Usage
from shared.domain.meter import Meter
from shared.postgres import epoch, outbox
from shared.postgres.meters import read_meters
from shared.postgres.outbox import OutboxMessage
from shared.postgres.pool import Connection

MAX_CLOCK_AHEAD = timedelta(minutes=10)  # events may be 5 minutes ahead, and clocks differ


@dataclass(frozen=True, slots=True)
class Change:
    """One line of what apply did or, in a dry run, would do."""

    kind: str
    id: str
    outcome: str  # created | created, back-filled | changed | exists


@dataclass
class Applied:
    """`secrets` holds each new key's full text by `project/name`: show it once, keep it nowhere."""

    changes: list[Change] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    messages: list[CatalogueMessage] = field(default_factory=list)
    epoch_moves: bool = False
    backfills: list[Meter] = field(default_factory=list)

    def note(self, kind: str, id: str, outcome: str, message: CatalogueMessage | None) -> None:
        self.changes.append(Change(kind, id, outcome))
        if message is not None:
            self.messages.append(message)


async def apply_catalogue(
    connection: Connection,
    file: CatalogueFile,
    topic: str,
    peppers: dict[str, bytes],
    actor: str,
    before_epoch: Callable[[], Awaitable[None]] | None = None,
    events: Events | None = None,
) -> Applied:
    """Write the file's organisations, projects, meters and keys in the caller's transaction.

    `before_epoch` is what else belongs into the transaction (prices): the epoch lock is taken after it. `events`:
    needed for meters that are back-filled.
    Idempotent: applying a file twice changes nothing and makes no new secret. `topic` is the real name of
    catalogue.v1. Raises Usage when the file contradicts what is there (a project that would move to
    another organisation, a meter defined otherwise, a currency that would change).
    """
    await key_store.lock(connection)
    applied = Applied()
    for organisation in file.organisations:
        await _organisation(connection, organisation, applied)
    for project in file.projects:
        await _project(connection, project, applied)
    for meter in file.meters:
        await _meter(connection, meter, applied)
    for key in file.keys:
        await _key(connection, key, peppers, applied)
    for change in applied.changes:
        if change.outcome != "exists":
            await append(
                connection,
                actor=actor,
                action=f"{change.kind}.{change.outcome.partition(',')[0]}",
                object_kind=change.kind,
                object_id=change.id,
            )
    await outbox.add(
        connection, [OutboxMessage(topic, key_of(message), encode_catalogue(message)) for message in applied.messages]
    )
    if before_epoch is not None:
        await before_epoch()
    if applied.epoch_moves:
        version = await epoch.enter_exclusive(connection)
        if applied.backfills:
            if events is None:
                raise Usage("meters are back-filled by `khata catalogue apply` alone")
            await backfill.begin(connection, events, applied.backfills, version)
    return applied


async def _one(connection: Connection, query: Any, parameters: Sequence[Any]) -> tuple[Any, ...] | None:
    return await (await connection.execute(query, parameters)).fetchone()


async def _organisation(connection: Connection, entry: OrganisationEntry, applied: Applied) -> None:
    columns = (
        entry.name,
        entry.currency,
        entry.time_zone,
        entry.country,
        entry.state_code or (entry.gstin or "")[:2] or None,
        entry.gstin,
        entry.address,
        entry.email,
        *_two(entry.limit),
    )
    found = await _one(
        connection,
        """
        SELECT name, currency, time_zone, country, state_code, gstin, address, email, limit_per_second, limit_burst,
            version
        FROM catalogue.organisation WHERE id = %s
        """,
        (entry.id,),
    )
    if found is not None and found[:-1] == columns:
        applied.note("organisation", entry.id, "exists", None)
        return
    if found is not None and (found[1], found[2]) != (entry.currency, entry.time_zone):
        raise Usage(
            f"organisation {entry.id}: currency and time zone cannot change once usage may exist "
            f"(they are {found[1]} and {found[2]}); make a new organisation"
        )
    row = await _one(
        connection,
        """
        INSERT INTO catalogue.organisation AS organisation
            (id, name, currency, time_zone, country, state_code, gstin, address, email, limit_per_second, limit_burst)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        ON CONFLICT (id) DO UPDATE SET
            name = excluded.name, country = excluded.country, state_code = excluded.state_code,
            gstin = excluded.gstin, address = excluded.address, email = excluded.email,
            limit_per_second = excluded.limit_per_second, limit_burst = excluded.limit_burst,
            version = organisation.version + 1, updated_at = now()
        RETURNING version
        """,
        (entry.id, *columns),
    )
    assert row is not None
    limit = limit_of(*_two(entry.limit))
    message = OrganisationMessage(entry.id, row[0], entry.name, entry.currency, entry.time_zone, limit)
    applied.note("organisation", entry.id, "changed" if found else "created", message)


async def _project(connection: Connection, entry: ProjectEntry, applied: Applied) -> None:
    name = entry.name or entry.id
    found = await _one(
        connection,
        """
        SELECT organisation_id, name, accept_unknown_types, raw_topic, version
        FROM catalogue.project WHERE id = %s
        """,
        (entry.id,),
    )
    if found is not None and found[:-1] == (entry.organisation, name, entry.accept_unknown_types, entry.raw_topic):
        applied.note("project", entry.id, "exists", None)
        return
    if found is not None and found[0] != entry.organisation:
        raise Usage(f"project {entry.id} belongs to {found[0]}; a project never moves to another organisation")
    if found is not None and found[3] and not entry.raw_topic:
        raise Usage(
            f"project {entry.id}: raw_topic cannot be taken back, because records may wait in its topic; "
            "take the producers' leave to write away at the broker"
        )
    if not await _one(connection, "SELECT 1 FROM catalogue.organisation WHERE id = %s", (entry.organisation,)):
        raise Usage(f"project {entry.id}: there is no organisation {entry.organisation}; add it to the file")
    row = await _one(
        connection,
        """
        INSERT INTO catalogue.project AS project (id, organisation_id, name, accept_unknown_types, raw_topic)
        VALUES (%s, %s, %s, %s, %s)
        ON CONFLICT (id) DO UPDATE SET
            name = excluded.name, accept_unknown_types = excluded.accept_unknown_types,
            raw_topic = excluded.raw_topic, version = project.version + 1, updated_at = now()
        RETURNING version
        """,
        (entry.id, entry.organisation, name, entry.accept_unknown_types, entry.raw_topic),
    )
    assert row is not None
    applied.epoch_moves = True
    message = ProjectMessage(entry.id, row[0], entry.organisation, name, entry.accept_unknown_types, entry.raw_topic)
    applied.note("project", entry.id, "changed" if found else "created", message)


async def _meter(connection: Connection, entry: MeterEntry, applied: Applied) -> None:
    newest = max(
        (meter for meter in await read_meters(connection) if meter.id == entry.id),
        key=lambda meter: meter.version,
        default=None,
    )
    wanted = entry.meter(newest.version if newest else 1)
    if newest == wanted:
        applied.note("meter", entry.id, "exists", None)
        return
    if newest is not None:
        if entry.backfill:
            raise Usage(
                f"meter {entry.id} exists with another definition, and only a new meter is back-filled: give it "
                "another id, or take `backfill` away and give it effective_from"
            )
        await _require_future(
            connection, entry, f"meter {entry.id} exists with another definition, which never changes"
        )
        if newest.effective_from and entry.effective_from and entry.effective_from <= newest.effective_from:
            since = f"{newest.effective_from.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
            raise Usage(f"meter {entry.id} changes at {since} already: effective_from must be later")
        wanted = entry.meter(newest.version + 1)
    elif entry.backfill:
        applied.backfills.append(wanted)
    else:
        await _refuse_late_meter(connection, entry, applied)
    await connection.execute(
        """
        INSERT INTO catalogue.meter (
            id, version, name, event_type, aggregation, value_path, unit, billable, clamp_min, clamp_max,
            filters, group_by, late, effective_from
        ) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb, %s::jsonb, %s,
            coalesce(%s, '-infinity'::timestamptz))
        """,
        (
            *(wanted.id, wanted.version, wanted.name, wanted.event_type, wanted.aggregation, wanted.value_path),
            *(wanted.unit, wanted.billable, wanted.clamp_min, wanted.clamp_max),
            *(filters_json(wanted.filters), group_by_json(wanted.group_by), wanted.late, wanted.effective_from),
        ),
    )
    applied.epoch_moves = True
    made = "created, back-filled" if entry.backfill else "created"
    applied.note("meter", entry.id, "changed" if newest else made, _meter_message(wanted))


def _meter_message(meter: Meter) -> MeterMessage:
    return MeterMessage(
        id=meter.id,
        version=meter.version,
        name=meter.name,
        event_type=meter.event_type,
        aggregation=meter.aggregation,
        value_path=meter.value_path,
        unit=meter.unit,
        billable=meter.billable,
        clamp_min=UNSET if meter.clamp_min is None else str(meter.clamp_min),
        clamp_max=UNSET if meter.clamp_max is None else str(meter.clamp_max),
        filters=filters_json(meter.filters) if meter.filters else UNSET,
        group_by=group_by_json(meter.group_by) if meter.group_by else UNSET,
        late=UNSET if meter.late == "next_invoice" else meter.late,
        effective_from=UNSET if meter.effective_from is None else meter.effective_from,
    )


async def _refuse_late_meter(connection: Connection, entry: MeterEntry, applied: Applied) -> None:
    """Meters of one event type are made together, in one apply, or count from a future hour on.

    Events counted before a meter existed are not in its windows, so an invoice would differ from its own proof.
    """
    made_now = [
        change.id for change in applied.changes if change.kind == "meter" and change.outcome.startswith("created")
    ]
    found = await _one(
        connection,
        "SELECT id FROM catalogue.meter WHERE event_type = %s AND id <> ALL(%s) LIMIT 1",
        (entry.event_type, made_now),
    )
    if found is not None or entry.effective_from is not None:
        reason = f"meter {entry.id}: events of type {entry.event_type!r} may have been counted already"
        await _require_future(connection, entry, f"{reason} (by {found[0]})" if found else f"meter {entry.id}")


async def _require_future(connection: Connection, entry: MeterEntry, reason: str) -> None:
    """No event of an hour that has begun, or of a clock that runs ahead, may have been counted otherwise."""
    earliest = await _one(
        connection, "SELECT date_trunc('hour', now() + %s, 'UTC') + interval '1 hour'", (MAX_CLOCK_AHEAD,)
    )
    assert earliest is not None
    if entry.effective_from is None or entry.effective_from < earliest[0]:
        raise Usage(
            f"{reason}: give it effective_from, {earliest[0].astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} or a later hour"
        )


async def _key(connection: Connection, entry: KeyEntry, peppers: dict[str, bytes], applied: Applied) -> None:
    label = f"{entry.project}/{entry.name}"
    live = entry.mode == "live"
    limit = Limit(entry.limit.per_second, entry.limit.burst) if entry.limit else None
    found = await key_store.holder(connection, entry.project, entry.name)
    if found is not None:
        if (found.live, tuple(found.scopes)) != (live, entry.scopes):
            raise Usage(f"key {label} exists with another mode or other scopes: give the new one another name")
        if found.limit == limit or found.is_over:
            applied.note("key", label, "exists", None)
            return
        changed = await key_store.set_limit(connection, found, limit)
        applied.note("key", label, "changed", changed.message())
        return
    made = MadeKey.under(peppers, live)
    stored = await key_store.insert(connection, made, NewKey(entry.project, entry.name, entry.scopes, limit))
    applied.secrets[label] = made.text
    applied.note("key", label, "created", stored.message())


def _two(limit: LimitEntry | None) -> tuple[int | None, int | None]:
    return (limit.per_second, limit.burst) if limit else (None, None)
