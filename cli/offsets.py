"""`khata offsets`: where each group goes on, and setting one back. For groups whose offsets live in Postgres."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import typer

from services.aggregator.windows import store as windows
from shared.audit import append as audit
from shared.audit.append import operator
from shared.domain.errors import Usage
from shared.kafka import rewind
from shared.kafka.records import Partition
from shared.kafka.rewind import Bounds
from shared.postgres.current import current_database
from shared.postgres.pool import Connection, Role
from shared.runtime.instants import instant
from shared.runtime.output import Output, OutputOption, agreed, show, wait_for
from shared.runtime.settings import DatabaseSettings, KafkaSettings, load

app = typer.Typer(help="Where consumer groups go on.", no_args_is_help=True)

# Who may move which groups (0002_messaging.sql, own_groups_only).
ROLES: Mapping[str, Role] = {"aggregator": "khata_aggregator", "payments": "khata_payments"}
BEGINNING = "beginning"


class OffsetsSettings(KafkaSettings, DatabaseSettings):
    """What the commands need."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One row of messaging.consumer_offset."""

    group: str
    partition: Partition
    next_offset: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Move:
    """One partition of a rewind; `target` equals `stored` where nothing is to be done."""

    partition: Partition
    stored: int
    target: int


@app.callback()
def group() -> None:
    """Where consumer groups go on."""


@app.command("show")
def show_offsets(
    group: str | None = typer.Option(None, help="of this group only, like khata.aggregator"),
    topic: str | None = typer.Option(None, help="of this topic only"),
    output: Output = OutputOption,
) -> None:
    """Per partition: what is stored in Postgres, the log's start and end, the lag, and what Kafka was told."""
    settings = load(OffsetsSettings)
    show(wait_for(_show(settings, group and settings.names.real(group), topic and settings.names.real(topic))), output)


@app.command("rewind")
def rewind_offsets(
    group: str = typer.Option(help="like khata.aggregator, as `show` names it"),
    topic: str = typer.Option(help="which of its topics"),
    to: str = typer.Option(help="an offset, `beginning`, or a time (2026-10-01T12:00:00Z, 24h): then what came since"),
    partition: int | None = typer.Option(None, min=0, help="this one only; an offset needs it"),
    reason: str = typer.Option(help="why; kept in the audit"),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="say what would be done; also what happens without --yes or a terminal"
    ),
    yes: bool = typer.Option(False, "--yes", help="do not ask"),
    output: Output = OutputOption,
) -> None:
    """Let a group read records again. Refused while one of its processes is alive."""
    if not reason.strip():
        raise Usage("--reason may not be empty")
    settings = load(OffsetsSettings)
    real_group, real_topic = settings.names.real(group), settings.names.real(topic)
    role = role_of(real_group)
    moves = wait_for(_plan(settings, real_group, real_topic, partition, to))
    wanted = [move for move in moves if move.target != move.stored]
    outcome = "unchanged"
    if wanted:
        records = sum(max(0, move.stored - move.target) for move in wanted)
        question = f"Set {len(wanted)} partition(s) of {real_group} back, so that {records} records are read again?"
        outcome = "would be rewound"
        if agreed(question, yes=yes, dry_run=dry_run):
            wait_for(_rewind(settings, role, real_group, wanted, reason))
            outcome = "rewound"
    show([_moved(move, outcome if move in wanted else "unchanged") for move in moves], output)


def role_of(group: str) -> Role:
    """Whose group it is. Raises Usage for one whose offsets are not in Postgres."""
    service = re.search(r"(?:^|\.)khata\.([a-z]+)(?:\.[^.]+)?$", group)
    if service is None or service[1] not in ROLES:
        raise Usage(f"{group} has no offsets in Postgres: groups of {', '.join(ROLES)} have (`khata offsets show`)")
    return ROLES[service[1]]


def target(to: str, stored: int, bounds: tuple[int, int], at_time: int | None) -> int:
    """Where a partition is to go on. Pure. Raises Usage for what is not in the log or would pass records over.

    The one way forward is to the log's beginning, when retention took what was never read: there is nothing to pass.
    """
    start, end = bounds
    if at_time is not None:
        found = max(start, min(at_time, stored)) if stored <= end else at_time
    else:
        found = start if to == BEGINNING else int(to)
    if not start <= found <= end:
        raise Usage(f"{found} is not in the log, which goes from {start} to {end}")
    if found > stored and stored >= start:
        raise Usage(f"{found} is ahead of {stored}: {found - stored} records would never be read")
    return found


async def _show(settings: OffsetsSettings, group: str | None, topic: str | None) -> list[dict[str, Any]]:
    async with current_database(settings, "khata_reader", "offsets") as database, database.connection() as connection:
        stored = await _stored(connection, group, topic)
    bounds = await rewind.log_bounds(settings, [one.partition.topic for one in stored])
    told = {name: await rewind.positions(settings, name) for name in dict.fromkeys(one.group for one in stored)}
    return [_line(one, bounds.get(one.partition), told[one.group].get(one.partition)) for one in stored]


def _line(one: Stored, bounds: tuple[int, int] | None, kafka: int | None) -> dict[str, Any]:
    start, end = bounds or (None, None)
    return {
        "group": one.group,
        "topic": one.partition.topic,
        "partition": one.partition.partition,
        "stored": one.next_offset,
        "log_start": start,
        "log_end": end,
        "lag": None if end is None else end - one.next_offset,
        "kafka": kafka,
        "updated_at": one.updated_at.isoformat(),
    }


async def _plan(settings: OffsetsSettings, group: str, topic: str, partition: int | None, to: str) -> list[Move]:
    """Raises Usage for a group that is alive, unknown names, and targets that cannot be."""
    at = None if to == BEGINNING or to.isdecimal() else instant(to, datetime.now(UTC))
    if to.isdecimal() and partition is None:
        raise Usage("an offset is one partition's: name it with --partition")
    async with current_database(settings, "khata_reader", "offsets") as database, database.connection() as connection:
        stored = await _stored(connection, group, topic)
    chosen = [one for one in stored if partition in (None, one.partition.partition)]
    if not chosen:
        raise Usage(f"{group} has stored no offset of {topic}{'' if partition is None else f'[{partition}]'}")
    await _require_nobody(settings, group)
    bounds = await rewind.log_bounds(settings, [topic])
    missing = [one.partition for one in chosen if one.partition not in bounds]
    if missing:
        raise Usage(f"there is no {topic}[{missing[0].partition}] in Kafka: run `khata topics apply`")
    times = {} if at is None else await rewind.offsets_at(settings, at, bounds)
    return [Move(one.partition, one.next_offset, _target(one, to, bounds, times)) for one in chosen]


def _target(one: Stored, to: str, bounds: Bounds, times: Mapping[Partition, int]) -> int:
    try:
        return target(to, one.next_offset, bounds[one.partition], times.get(one.partition))
    except Usage as error:
        raise Usage(f"{one.partition.topic}[{one.partition.partition}]: {error}") from None


async def _rewind(settings: OffsetsSettings, role: Role, group: str, moves: Sequence[Move], reason: str) -> None:
    """Kafka first, then Postgres with its audit entry. Raises Usage, BrokerAway, DatabaseAway."""
    await _require_nobody(settings, group)
    await rewind.commit(settings, group, {move.partition: move.target for move in moves})
    async with current_database(settings, role, "offsets") as database, database.transaction() as connection:
        for move in moves:
            if not await rewind.store(connection, group, move.partition, move.target, move.stored):
                raise Usage(f"{move.partition.topic}[{move.partition.partition}] has moved on meanwhile: try again")
            if group == settings.names.group("aggregator"):
                await windows.step_back(connection, move.partition, move.target)
        await audit.append(
            connection,
            actor=operator(),
            action="offsets.rewound",
            object_kind="consumer_group",
            object_id=group,
            details={
                "topic": moves[0].partition.topic,
                "partitions": {str(move.partition.partition): [move.stored, move.target] for move in moves},
                "reason": reason,
            },
        )


async def _require_nobody(settings: OffsetsSettings, group: str) -> None:
    alive = await rewind.members(settings, group)
    if alive:
        raise Usage(
            f"{group} has living members ({', '.join(alive)}): stop them; Kafka forgets one a few seconds after its end"
        )


async def _stored(connection: Connection, group: str | None, topic: str | None) -> list[Stored]:
    cursor = await connection.execute(
        """
        SELECT consumer_group, topic, partition, next_offset, updated_at FROM messaging.consumer_offset
        WHERE (%(group)s::text IS NULL OR consumer_group = %(group)s)
          AND (%(topic)s::text IS NULL OR topic = %(topic)s)
        ORDER BY consumer_group, topic, partition
        """,
        {"group": group, "topic": topic},
    )
    return [Stored(row[0], Partition(row[1], row[2]), row[3], row[4]) for row in await cursor.fetchall()]


def _moved(move: Move, outcome: str) -> dict[str, Any]:
    return {
        "topic": move.partition.topic,
        "partition": move.partition.partition,
        "stored": move.stored,
        "target": move.target,
        "read_again": max(0, move.stored - move.target),
        "outcome": outcome,
    }
