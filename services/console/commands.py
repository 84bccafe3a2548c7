"""`khata events trace`: what became of one event, for an operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import typer

from services.console.trace import trace_event
from shared.domain.errors import Usage
from shared.postgres.current import current_database
from shared.runtime.output import Output, OutputOption, show, show_document, wait_for
from shared.runtime.settings import DatabaseSettings, KafkaSettings, load


class TraceSettings(DatabaseSettings, KafkaSettings):
    """What `khata events trace` needs."""


def trace(
    source: str = typer.Argument(help="the event's source"),
    id: str = typer.Argument(help="the event's id"),
    project: str = typer.Option(..., "--project", "-p", help="whose event it is"),
    test: bool = typer.Option(False, "--test", help="a test event"),
    output: Output = OutputOption,
) -> None:
    """Every stage an event passed, with times, and the reason where it stopped."""
    found = wait_for(_trace(load(TraceSettings), project, not test, source, id))
    if not found["stages"] and not found["dead_letters"] and not found["corrections"]:
        raise Usage(
            f"no event {id!r} of source {source!r} and project {project!r} has been applied or refused; it may be on "
            "its way: `khata events tail` shows what is accepted, `khata offsets show` how far the aggregator is"
        )
    if output is Output.JSON:
        show_document(orjson.loads(orjson.dumps(found)))  # instants as over HTTP
        return
    show([_line(stage) for stage in found["stages"]], output, title=f"{source} {id} ({found['mode']})")
    for name in ("corrections", "conflicts", "dead_letters"):
        if found[name]:
            show(found[name], output, title=name.replace("_", " "))


async def _trace(settings: TraceSettings, project: str, live: bool, source: str, id: str) -> dict[str, Any]:
    async with current_database(settings, "khata_reader", "trace") as database, database.transaction() as connection:
        return await trace_event(connection, settings.names, project, live, source, id, for_operator=True)


def _line(stage: Mapping[str, Any]) -> dict[str, Any]:
    """What people look at: the stage, when, and the rest in words."""
    rest = {name: value for name, value in stage.items() if name not in ("stage", "at", "meters") and value is not None}
    words = [f"{name} {value}" for name, value in rest.items()]
    for meter in stage.get("meters", ()):
        words.append(
            f"{meter['meter']} v{meter['version']}: {meter['value']} in the hour of {meter['hour']:%Y-%m-%d %H:%MZ}"
        )
    return {"stage": stage["stage"], "at": stage.get("at"), "what": ", ".join(words)}
