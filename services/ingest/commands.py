"""`khata events`: what a producer does from a terminal."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from services.ingest.client import IngestClient
from services.ingest.correct import amend, void
from services.ingest.importing.access_log import AccessLog
from services.ingest.importing.json_lines import JsonLines
from services.ingest.importing.lines import Form
from services.ingest.importing.mapping import read_mapping
from services.ingest.importing.rows import Events
from services.ingest.importing.run import Imported, import_file
from services.ingest.key_choice import KEY, KEYS_FILE, PROJECT, URL, address, choose
from services.ingest.send import send
from services.ingest.tail import tail
from shared.domain.errors import Rejected, Usage
from shared.domain.period import Month, time_zone
from shared.runtime.output import Output, OutputOption, show, show_document, stderr

app = typer.Typer(help="Usage events.", no_args_is_help=True)


class Format(StrEnum):
    CSV = "csv"
    JSON_LINES = "jsonl"
    ACCESS_LOG = "access-log"


_SUFFIXES = {".jsonl": Format.JSON_LINES, ".ndjson": Format.JSON_LINES, ".log": Format.ACCESS_LOG}


@app.callback()
def group() -> None:
    """Usage events."""


@app.command("import")
def import_events(
    file: Path = typer.Argument(help="CSV with a header line, JSON lines (one CloudEvent a line), or an access log"),
    format: Format | None = typer.Option(None, help="what the file is; by its name (.jsonl, .log) when left out"),
    mapping: Path | None = typer.Option(None, help="csv: YAML that says what the columns mean"),
    source: str | None = typer.Option(None, help="where the events come from; part of their identity"),
    subject: str | None = typer.Option(None, help="access-log: whose usage it is; the source when left out"),
    into_month: str | None = typer.Option(None, help="YYYY-MM: move every row there, keeping its local day and time"),
    zone: str = typer.Option("Asia/Kolkata", help="access-log: time zone of the days for --into-month"),
    url: str | None = URL,
    key: str | None = KEY,
    keys_file: str | None = KEYS_FILE,
    project: str | None = PROJECT,
    output: Output = OutputOption,
) -> None:
    """Send a file's rows as events. One row is one event; importing it twice counts nothing twice."""
    month = Month.parse(into_month) if into_month else None
    kind = format or _SUFFIXES.get(file.suffix, Format.CSV)
    form = _form(kind, mapping, source, subject, month, zone)
    if not file.is_file():
        raise Usage(f"{file}: there is no such file")
    secret = choose(key, keys_file, project)
    size = file.stat().st_size

    async def work(bar: Progress) -> Imported:
        task = bar.add_task(file.name, total=size)
        async with IngestClient(address(url), secret) as client:
            return await import_file(file, form, client, lambda read: bar.update(task, completed=read))

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr) as bar:
        done = asyncio.run(work(bar))
    _tell(done, output)


app.command("send")(send)
app.command("void")(void)
app.command("amend")(amend)
app.command("tail")(tail)


def _form(
    kind: Format, mapping: Path | None, source: str | None, subject: str | None, month: Month | None, zone: str
) -> Form:
    """Raises Usage for options that are missing, or that mean nothing for this kind of file."""
    if mapping is not None and kind is not Format.CSV:
        raise Usage(f"--mapping is for csv; this file is read as {kind.value}: say --format csv")
    match kind:
        case Format.CSV:
            if mapping is None:
                raise Usage("a CSV needs --mapping; see examples/llm/mapping.yaml")
            rules = read_mapping(mapping)
            origin = source or rules.source
            if origin is None:
                raise Usage(f"say where the events come from: --source, or source in {mapping}")
            return Events(rules, origin, month)
        case Format.ACCESS_LOG:
            if source is None:
                raise Usage(
                    "say where the events come from: --source, another one for each log (it is in the identity)"
                )
            try:
                time_zone(zone)
            except Rejected as error:
                raise Usage(f"--zone: {error.message}") from None
            return AccessLog(source, subject or source, month, zone)
        case Format.JSON_LINES:
            if source or month:
                raise Usage("JSON lines are whole events: --source and --into-month do not apply")
            return JsonLines()


def _tell(done: Imported, output: Output) -> None:
    summary = {"rows": done.rows, "accepted": done.accepted, "rejected": done.rejected}
    refusals = [{"line": line, "code": code, "message": message} for line, code, message in done.refused]
    if output is Output.JSON:
        show_document(summary | {"refused": refusals})
    else:
        show([summary], output)
        if refusals:
            show(refusals, output, title="refused")
    if done.rejected:
        raise typer.Exit(1)
