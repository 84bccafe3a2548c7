"""Close a month: wait, seal, then draft and finalize, organisation by organisation.

Per time zone (its organisations are a block with one cut):
    1  the barrier: what was accepted is aggregated, no new meter still counts what was before it, and what was
       corrected is looked at again
                                                             crash: nothing happened
    2  seal the block under one cut                          crash: sealed; the next run keeps that cut
Then per organisation, each alone:
    3  draft (one transaction)                               crash: the next run finds the draft
    4  finalize (one transaction)                            crash: the next run finds it finalized
       a draft that prices or parties have left behind is discarded (one transaction), then 3 again
What stops one organisation (no price, no state, an arithmetic check, an error of the database that time does not
heal) parks it with a case; the others go on.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar

import psycopg

from services.invoicer import attempts, backfill_barrier, barrier, cases, dirty_barrier
from services.invoicer.attempts import Attempt
from services.invoicer.draft import Drafted, discard, draft, idempotency_key
from services.invoicer.finalize import DatabaseClock, Finalized, StaleDraft, database_now, finalize
from services.invoicer.progress import Progress, Stage, silent
from shared.contracts.topics import INVOICES, USAGE_EVENTS, USAGE_RAW
from shared.domain.errors import DatabaseAway, NeedsPerson, Rejected, Retryable, Usage
from shared.domain.period import Month, time_zone
from shared.kafka import topics
from shared.observability import logging
from shared.postgres.pool import Connection, Database
from shared.runtime.failpoints import failpoint
from shared.runtime.settings import KafkaSettings
from shared.usage.seal import cut_of, seal

Clock = Callable[[], datetime]

log = logging.get(__name__)

_LOCK = 0x6B636C6F7365  # "kclose"
DRAFTS = 5  # of one month in one run: more only while somebody goes on changing prices
ATTEMPTS = 8
PAUSE_FIRST_S = 0.1
PAUSE_MOST_S = 5.0

T = TypeVar("T")


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Deps:
    """What closing works with. `wait_s`: how long one barrier may take.

    A month is over when both clocks say so, `clock` of this machine and the database's: a fast one alone would seal a
    month that still runs. Invoices are dated by the database's.
    """

    kafka: KafkaSettings
    database: Database
    actor: str
    clock: Clock = utc_now
    database_clock: DatabaseClock = database_now
    wait_s: float = 60.0


class Result(StrEnum):
    FINALIZED = "finalized"
    REPLAYED = "replayed"  # it was finalized by an earlier run
    NOTHING_TO_BILL = "nothing_to_bill"
    PARKED = "parked"  # a case is open
    REFUSED = "refused"  # the key stands for something else; a case is open


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one organisation; `problem` is `code: sentence` where it stopped."""

    organisation_id: str
    result: Result
    number: str | None = None
    currency: str | None = None
    total_minor: int | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class CloseReport:
    month: Month
    outcomes: tuple[Outcome, ...]

    @property
    def stopped(self) -> tuple[Outcome, ...]:
        """Those that need a person."""
        return tuple(outcome for outcome in self.outcomes if outcome.problem is not None)


async def close_month(
    deps: Deps, month: Month, organisations: Sequence[str] | None = None, progress: Progress = silent
) -> CloseReport:
    """Close `month` for these organisations, or for all that have a project.

    Safe to run again, after a crash anywhere and beside itself. Raises Usage for an unknown organisation and a
    month that is not over in an organisation's zone, Retryable when the barrier is not passed, DatabaseAway or
    BrokerAway when a dependency stays away, Misconfigured for a topic that is missing.
    """
    blocks = await _blocks(deps, month, organisations)
    await topics.require(deps.kafka, [USAGE_RAW, USAGE_EVENTS, INVOICES])
    outcomes: list[Outcome] = []
    total = sum(len(block) for block in blocks.values())
    for zone in sorted(blocks):
        await _seal_block(deps, month, zone, blocks[zone], progress)
        for organisation_id in blocks[zone]:
            progress(Stage("invoices", len(outcomes), total))
            outcomes.append(await _bill(deps, organisation_id, month))
    progress(Stage("invoices", len(outcomes), total))
    return CloseReport(month, tuple(outcomes))


async def _blocks(deps: Deps, month: Month, organisations: Sequence[str] | None) -> dict[str, list[str]]:
    """Organisations by time zone, in order of id. Raises Usage."""
    async with deps.database.connection() as connection:
        rows = await (
            await connection.execute(
                """
                SELECT id, time_zone FROM catalogue.organisation
                WHERE CASE WHEN %(named)s::text[] IS NULL
                           THEN EXISTS (SELECT FROM catalogue.project WHERE organisation_id = organisation.id)
                           ELSE id = ANY(%(named)s::text[]) END
                ORDER BY id
                """,
                {"named": None if organisations is None else list(organisations)},
            )
        ).fetchall()
        here, there = deps.clock(), await deps.database_clock(connection)
    found = dict(rows)
    if missing := sorted(set(organisations or ()) - found.keys()):
        raise Usage(f"there is no organisation {', '.join(missing)}; `khata catalogue apply` makes one")
    now = min(here, there)
    blocks: dict[str, list[str]] = {}
    for organisation_id, zone in found.items():
        _, end = month.bounds(time_zone(zone))
        if now < end:
            raise Usage(
                f"{month} is not over for {organisation_id} ({zone}): it ends at {end:%Y-%m-%d %H:%M} UTC, and it is "
                f"{here:%Y-%m-%d %H:%M} by this machine's clock, {there:%Y-%m-%d %H:%M} by the database's. "
                "Close an earlier month, or name the organisations for which it is over with --organisation"
            )
        blocks.setdefault(zone, []).append(organisation_id)
    return blocks


async def _seal_block(deps: Deps, month: Month, zone: str, block: Sequence[str], progress: Progress) -> None:
    async with deps.database.connection() as connection:
        if not await _unsealed(connection, month, block):
            return  # an earlier run sealed them all: its cut stands
    await barrier.wait(deps.kafka, deps.database, progress, deps.wait_s)
    await backfill_barrier.wait(deps.database, progress, deps.wait_s)
    deadline = time.monotonic() + deps.wait_s
    await dirty_barrier.wait(deps.database, month, block, progress, deadline, deps.wait_s)
    progress(Stage(f"sealing {month} of {len(block)} organisations in {zone}"))

    async def seal_what_is_open() -> None:
        async with deps.database.transaction() as connection:
            # One close after the other, so that a second one beside us takes no cut for nothing.
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            if unsealed := await _unsealed(connection, month, block):
                await seal(
                    connection,
                    deps.kafka.names.group("aggregator"),
                    deps.kafka.names.topic(USAGE_EVENTS),
                    month,
                    unsealed,
                )

    while True:
        try:
            await _again(seal_what_is_open)
            break
        except DatabaseAway:
            raise
        except Retryable:  # an event was corrected in between, or a meter made
            await backfill_barrier.wait(deps.database, progress, deps.wait_s)
            await dirty_barrier.wait(deps.database, month, block, progress, deadline, deps.wait_s)
    await failpoint("invoicer.close.after_seal")


async def _unsealed(connection: Connection, month: Month, block: Sequence[str]) -> list[str]:
    rows = await (
        await connection.execute(
            """
            SELECT organisation FROM unnest(%s::text[]) AS organisation
            WHERE NOT EXISTS (SELECT FROM usage.seal WHERE organisation_id = organisation AND year = %s AND month = %s)
            ORDER BY organisation
            """,
            (list(block), month.year, month.month),
        )
    ).fetchall()
    return [row[0] for row in rows]


async def _bill(deps: Deps, organisation_id: str, month: Month) -> Outcome:
    """Steps 3 and 4 of one organisation; what stops it is its outcome, never an exception."""

    async def draft_it() -> Drafted | None:
        async with deps.database.transaction() as connection:
            cut = await cut_of(connection, organisation_id, month)
            assert cut is not None, f"{month} of {organisation_id} is not sealed"
            return await draft(connection, organisation_id, month, cut, deps.actor)

    async def finalize_it(invoice_id: str) -> Finalized:
        async with deps.database.transaction() as connection:
            topic = deps.kafka.names.topic(INVOICES)
            return await finalize(connection, invoice_id, topic, deps.actor, deps.database_clock)

    async def discard_it(invoice_id: str) -> None:
        async with deps.database.transaction() as connection:
            await discard(connection, invoice_id, deps.actor)

    async def bill_it() -> Finalized | None:
        for _ in range(DRAFTS):
            drafted = await _again(draft_it)
            if drafted is None:
                return None
            invoice_id = drafted.invoice_id
            try:
                return await _again(lambda: finalize_it(invoice_id))  # noqa: B023 - awaited at once
            except StaleDraft:
                await _again(lambda: discard_it(invoice_id))  # noqa: B023
        raise NeedsPerson("draft_stale", f"prices or parties of {organisation_id} change all the time; close again")

    stopped: NeedsPerson | Rejected
    try:
        done = await bill_it()
    except (NeedsPerson, Rejected) as error:
        stopped = error
    except (psycopg.ProgrammingError, psycopg.InterfaceError):
        raise  # a bug of ours, which every organisation would meet
    except psycopg.Error as error:
        log.exception("close.unexpected_error", organisation=organisation_id, month=str(month))
        stopped = NeedsPerson("unexpected_error", f"{type(error).__name__}: {error.diag.message_primary or error}")
    else:
        if done is None:
            return Outcome(organisation_id, Result.NOTHING_TO_BILL)
        result = Result.REPLAYED if done.replayed else Result.FINALIZED
        return Outcome(organisation_id, result, done.number, done.currency, done.total_minor)
    await _again(lambda: _park(deps, organisation_id, month, stopped))
    result = Result.REFUSED if _attempt(stopped) is Attempt.REFUSED else Result.PARKED
    return Outcome(organisation_id, result, problem=f"{stopped.code}: {stopped.message}")


async def _park(deps: Deps, organisation_id: str, month: Month, error: NeedsPerson | Rejected) -> None:
    case = cases.Case(
        error.code,
        cases.month_object(organisation_id, month),
        organisation_id,
        f"mend what the evidence names, then `khata invoices close --month {month} --organisation {organisation_id}`",
        {"problem": error.message},
    )
    async with deps.database.transaction() as connection:
        await cases.open_case(connection, case, deps.actor)
        await attempts.record(connection, idempotency_key(organisation_id, month), _attempt(error), deps.actor)


def _attempt(error: NeedsPerson | Rejected) -> Attempt:
    return Attempt.REFUSED if error.code == "other_parameters" else Attempt.PARKED


async def _again(work: Callable[[], Awaitable[T]]) -> T:
    """Try a transaction again while the database says that it may well succeed. Raises DatabaseAway in the end."""
    for attempt in range(1, ATTEMPTS):
        try:
            return await work()
        except DatabaseAway:
            delay = min(PAUSE_MOST_S, PAUSE_FIRST_S * 2**attempt)
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311
    return await work()
