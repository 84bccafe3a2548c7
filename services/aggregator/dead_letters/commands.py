"""`khata dead-letters`: list, show, redrive, drop."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import typer

from services.aggregator.dead_letters import store
from services.aggregator.dead_letters.page import page
from services.aggregator.dead_letters.redrive import ROLE, Done, Order, RedriveSettings, redrive, require_topics
from services.aggregator.dead_letters.redrive import drop as drop_letters
from services.aggregator.dead_letters.store import Found, Selection, Summary
from services.aggregator.dead_letters.text import as_text, safe
from shared.audit.append import operator
from shared.contracts.headers import Headers
from shared.contracts.topics import DEAD_LETTER_SUFFIX
from shared.domain.errors import Usage
from shared.postgres.current import current_database
from shared.runtime.instants import instant
from shared.runtime.output import Output, OutputOption, agreed, show, show_document, stderr, wait_for
from shared.runtime.settings import load

app = typer.Typer(help="Dead letters: records that failed, kept until somebody decides.", no_args_is_help=True)

ERROR_CHARACTERS = 120
TELL_EVERY_S = 5.0


class State(StrEnum):
    OPEN = "open"
    REDRIVEN = "redriven"
    DROPPED = "dropped"
    ALL = "all"


Ids = typer.Argument(None, help="ids, as `list` shows them; without any: by the filters")
TopicOption = typer.Option(None, "--topic", help="that they failed in, like usage.raw.v1")
CodeOption = typer.Option(None, "--code", help="of the error, like unknown_event_type")
ProjectOption = typer.Option(None, "--project", help="of this project, as far as that can be read")
GroupOption = typer.Option(None, "--group", help="consumer group that refused them, like khata.aggregator")
SinceOption = typer.Option(None, "--since", help="failed then or later: 2026-10-01T12:00:00Z, 2026-10-01, 24h (ago)")
UntilOption = typer.Option(None, "--until", help="failed before then")
LimitOption = typer.Option(None, "--limit", min=1, help="at most so many, the oldest first")
DryRun = typer.Option(False, "--dry-run", help="say what would be done; also what happens without --yes or a terminal")
Yes = typer.Option(False, "--yes", help="do not ask")


@app.callback()
def group() -> None:
    """Dead letters: records that failed, kept until somebody decides."""


@app.command("list")
def list_letters(
    topic: str | None = TopicOption,
    code: str | None = CodeOption,
    project: str | None = ProjectOption,
    group: str | None = GroupOption,
    since: str | None = SinceOption,
    until: str | None = UntilOption,
    state: State = typer.Option(State.OPEN, help="what became of them"),
    limit: int = typer.Option(100, min=1, max=100_000, help="at most so many, the newest"),
    output: Output = OutputOption,
) -> None:
    """Dead letters, the newest first."""
    settings = load(RedriveSettings)
    wanted = _selection(settings, (), topic, code, project, group, since, until, limit, state)

    async def work() -> list[dict[str, Any]]:
        async with (
            current_database(settings, "khata_reader", "dead-letters") as database,
            database.connection() as connection,
        ):
            found = await store.select(connection, wanted, newest_first=True)
            return await store.rows(connection, [one.id for one in found])

    show([_row(one, output) for one in wait_for(work())], output)


@app.command("show")
def show_letter(id: int = typer.Argument(help="its id, as `list` shows it"), output: Output = OutputOption) -> None:
    """Everything about one dead letter: why, where, headers, value."""
    settings = load(RedriveSettings)

    async def work() -> tuple[dict[str, Any], Headers] | None:
        async with (
            current_database(settings, "khata_reader", "dead-letters") as database,
            database.connection() as connection,
        ):
            return await store.whole(connection, id)

    found = wait_for(work())
    if found is None:
        raise Usage(f"there is no dead letter {id}: see `khata dead-letters list --state all`")
    if output is Output.JSON:
        show_document(_document(*found))
    else:
        print("\n".join(page(*found)))


@app.command("redrive")
def redrive_letters(
    ids: list[int] = Ids,
    topic: str | None = TopicOption,
    code: str | None = CodeOption,
    project: str | None = ProjectOption,
    group: str | None = GroupOption,
    since: str | None = SinceOption,
    until: str | None = UntilOption,
    limit: int | None = LimitOption,
    reason: str = typer.Option("", help="why, for the audit"),
    as_adjustment: bool = typer.Option(
        False, "--as-adjustment", help="also events of sealed months: they are billed by a later document"
    ),
    again: bool = typer.Option(False, "--again", help="with ids: also what was redriven or dropped before"),
    dry_run: bool = DryRun,
    yes: bool = Yes,
    output: Output = OutputOption,
) -> None:
    """Send the records that failed to their topic again, byte for byte. Sent twice, an event counts once."""
    if again and not ids:
        raise Usage("--again needs the ids of the letters")
    settings = load(RedriveSettings)
    state = State.ALL if again else State.OPEN
    wanted = _selection(settings, ids, topic, code, project, group, since, until, limit, state)
    order = Order(operator(), reason, as_adjustment, again)
    found, summaries = wait_for(_plan(settings, wanted, sealed_too=as_adjustment, redrive=True))
    count = sum(one.letters - one.fixed for one in summaries)
    if not count or not agreed(f"Redrive {count} dead letters?", yes=yes, dry_run=dry_run, show=_shown(summaries)):
        show([_planned(one, "would be redriven") for one in summaries], output)
        return

    async def work() -> Done:
        async with current_database(settings, ROLE, "dead-letters") as database:
            await require_topics(settings, [one.topic for one in summaries])
            return await redrive(settings, database, found, order, _progress(count))

    done = wait_for(work())
    for id, words in done.refused.items():
        stderr.print(f"{id}: Kafka does not take it: {safe(words)}", markup=False)
    show([{"redriven": done.redriven, "left": done.left, "refused": len(done.refused), "order": order.id}], output)
    if done.refused:
        raise typer.Exit(1)


@app.command("drop")
def drop(
    ids: list[int] = Ids,
    topic: str | None = TopicOption,
    code: str | None = CodeOption,
    project: str | None = ProjectOption,
    group: str | None = GroupOption,
    since: str | None = SinceOption,
    until: str | None = UntilOption,
    limit: int | None = LimitOption,
    reason: str = typer.Option(..., help="why they may be given up; kept in the audit"),
    dry_run: bool = DryRun,
    yes: bool = Yes,
    output: Output = OutputOption,
) -> None:
    """Give dead letters up: they stay readable for 400 days, and count as decided."""
    if not reason.strip():
        raise Usage("--reason may not be empty")
    settings = load(RedriveSettings)
    wanted = _selection(settings, ids, topic, code, project, group, since, until, limit, State.OPEN)
    order = Order(operator(), reason)
    found, summaries = wait_for(_plan(settings, wanted, sealed_too=True, redrive=False))
    if not found or not agreed(f"Drop {len(found)} dead letters?", yes=yes, dry_run=dry_run, show=_shown(summaries)):
        show([_planned(one, "would be dropped") for one in summaries], output)
        return

    async def work() -> int:
        async with current_database(settings, ROLE, "dead-letters") as database:
            return await drop_letters(settings, database, found, order)

    dropped = wait_for(work())
    show([{"dropped": dropped, "left": len(found) - dropped, "order": order.id}], output)


async def _plan(
    settings: RedriveSettings, wanted: Selection, *, sealed_too: bool, redrive: bool
) -> tuple[list[Found], list[Summary]]:
    """The selection and its sums. Raises Usage for what cannot be done to it."""
    async with (
        current_database(settings, "khata_reader", "dead-letters") as database,
        database.connection() as connection,
    ):
        found = await store.select(connection, wanted)
        ids = [one.id for one in found]
        missing = sorted(set(wanted.ids) - set(ids))
        if missing:
            raise Usage(f"no {wanted.state or ''} dead letter has the id {', '.join(map(str, missing[:10]))}")
        summaries = await store.summaries(connection, ids)
        sealed = [] if sealed_too else await store.sealed_months(connection, ids)
    if sealed:
        named = ", ".join(f"{one.letters} of {one.organisation_id} {one.month}" for one in sealed[:10])
        raise Usage(
            f"{sum(one.letters for one in sealed)} of {len(ids)} letters are events of a sealed month ({named}): "
            "redriven, they are billed by a later document. Say --as-adjustment if that is meant; nothing was sent"
        )
    fixed = sum(one.fixed for one in summaries)
    if redrive and fixed:
        text = f"{fixed} of {len(ids)} letters cannot be redriven: they are truncated, or larger than a record may be"
        if fixed == len(ids):
            raise Usage(f"{text}. Have their producer send them again, then drop them")
        stderr.print(f"{text}; they stay open")
    return found, summaries


def _selection(
    settings: RedriveSettings,
    ids: Sequence[int] | None,
    topic: str | None,
    code: str | None,
    project: str | None,
    group: str | None,
    since: str | None,
    until: str | None,
    limit: int | None,
    state: State,
) -> Selection:
    now, names = datetime.now(UTC), settings.names
    return Selection(
        ids=tuple(ids or ()),
        topic=None if topic is None else names.real(topic.removesuffix(DEAD_LETTER_SUFFIX)),
        code=code,
        project=project,
        group=None if group is None else names.real(group),
        since=None if since is None else instant(since, now),
        until=None if until is None else instant(until, now),
        state=None if state is State.ALL else state.value,
        limit=limit,
    )


def _row(row: dict[str, Any], output: Output) -> dict[str, Any]:
    if output is Output.JSON:
        return row | {"failed_at": row["failed_at"].isoformat()}
    shown = {name: safe(value) if isinstance(value, str) else value for name, value in row.items()}
    return shown | {"failed_at": f"{row['failed_at']:%Y-%m-%d %H:%M:%S}", "error": shown["error"][:ERROR_CHARACTERS]}


def _planned(one: Summary, outcome: str) -> dict[str, Any]:
    return {
        "topic": safe(one.topic),
        "code": safe(one.code),
        "letters": one.letters,
        "bytes": one.bytes,
        "oldest": one.oldest.isoformat(),
        "newest": one.newest.isoformat(),
        "of_sealed_months": one.sealed,
        "not_to_be_sent": one.fixed,
        "perhaps_sent": one.perhaps_sent,
        "outcome": outcome,
    }


def _progress(count: int) -> Callable[[int], None]:
    """Tells how far it is, every few seconds."""
    next_at = time.monotonic() + TELL_EVERY_S

    def report(redriven: int) -> None:
        nonlocal next_at
        if time.monotonic() >= next_at:
            stderr.print(f"{redriven} of {count} redriven")
            next_at = time.monotonic() + TELL_EVERY_S

    return report


def _shown(summaries: Sequence[Summary]) -> list[str]:
    """What an operator sees before being asked."""
    return [f"{safe(one.topic)}  {safe(one.code)}  {one.letters} letters, {one.bytes} bytes" for one in summaries]


def _document(row: dict[str, Any], headers: Headers) -> dict[str, Any]:
    """Every byte is in it: what is no text is there as base64 alone."""
    texts = {name: row.pop(name) for name in ("key", "value")}
    found = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}
    found["digest"] = row["digest"].hex()
    for name, value in texts.items():
        found[name] = None if value is None else as_text(value)
        found[f"{name}_base64"] = None if value is None else base64.b64encode(value).decode()
    found["headers"] = [
        {"name": name, "value": as_text(value), "value_base64": base64.b64encode(value).decode()}
        for name, value in headers
    ]
    return found
