"""`khata events`: what a producer does from a terminal."""

from __future__ import annotations

import asyncio
from pathlib import Path

import typer
import yaml
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from services.ingest.client import IngestClient
from services.ingest.importing.mapping import read_mapping
from services.ingest.importing.rows import Events
from services.ingest.importing.run import Imported, import_file
from shared.domain.errors import Usage
from shared.domain.period import Month
from shared.runtime.output import Output, OutputOption, show, show_document, stderr

app = typer.Typer(help="Usage events.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Usage events."""


@app.command("import")
def import_events(
    file: Path = typer.Argument(help="CSV with a header line"),
    mapping: Path = typer.Option(help="YAML: what the columns mean; see examples/llm/mapping.yaml"),
    source: str | None = typer.Option(None, help="where the events come from; part of their identity"),
    into_month: str | None = typer.Option(None, help="YYYY-MM: move every row there, keeping its local day and time"),
    url: str = typer.Option("http://127.0.0.1:8080", envvar="KHATA_INGEST_URL", help="address of ingest"),
    key: str | None = typer.Option(None, envvar="KHATA_API_KEY", help="API key (better in the environment)"),
    keys_file: Path | None = typer.Option(None, help="what `khata catalogue apply --keys-out` wrote"),
    project: str | None = typer.Option(None, help="which project's key of the keys file"),
    output: Output = OutputOption,
) -> None:
    """Send a file's rows as events. One row is one event; importing it twice counts nothing twice."""
    rules = read_mapping(mapping)
    origin = source or rules.source
    if origin is None:
        raise Usage(f"say where the events come from: --source, or source in {mapping}")
    events = Events(rules, origin, Month.parse(into_month) if into_month else None)
    if not file.is_file():
        raise Usage(f"{file}: there is no such file")
    secret = key or _from_file(keys_file, project)

    size = file.stat().st_size

    async def work(bar: Progress) -> Imported:
        task = bar.add_task(file.name, total=size)
        async with IngestClient(url, secret) as client:
            return await import_file(file, rules, events, client, lambda read: bar.update(task, completed=read))

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr) as bar:
        done = asyncio.run(work(bar))
    _tell(done, output)


def _from_file(path: Path | None, project: str | None) -> str:
    """The one key of a keys file that fits. Raises Usage."""
    if path is None:
        raise Usage("give a key: KHATA_API_KEY, --key, or --keys-file")
    try:
        document = yaml.safe_load(path.read_text())
        keys: dict[str, str] = dict(document["keys"])
    except OSError as error:
        raise Usage(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        raise Usage(f"{path} is no keys file of `khata catalogue apply --keys-out`") from None
    fitting = {label: key for label, key in keys.items() if project in (None, label.partition("/")[0])}
    if len(fitting) != 1:
        raise Usage(f"{path} has {len(fitting)} keys that fit ({', '.join(sorted(keys))}): name one with --project")
    return fitting.popitem()[1]


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
