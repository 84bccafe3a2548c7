"""`khata events void` and `khata events amend`: correct one event, through the door that it came by."""

from __future__ import annotations

from typing import Any

import typer

from services.ingest.key_choice import KEY, KEYS_FILE, PROJECT, URL
from services.ingest.send import SOURCE, read_json, send_one
from shared.domain.correction import AMEND, VOID
from shared.runtime.output import Output, OutputOption

Target = typer.Argument(help="the id of the event that is wrong")
TargetSource = typer.Option(..., "--target-source", help="its source")
Subject = typer.Option(..., help="its subject: whose usage it is")
Reason = typer.Option(None, help="why, for people")
Source = typer.Option(SOURCE, help="where the correction comes from; part of its identity")
Id = typer.Option(None, help="of the correction, part of its identity; a new one when left out")
ValidateOnly = typer.Option(False, "--validate-only", help="say what would become of it, send nothing")


def void(
    target: str = Target,
    target_source: str = TargetSource,
    subject: str = Subject,
    reason: str | None = Reason,
    source: str = Source,
    id: str | None = Id,
    validate_only: bool = ValidateOnly,
    url: str | None = URL,
    key: str | None = KEY,
    keys_file: str | None = KEYS_FILE,
    project: str | None = PROJECT,
    output: Output = OutputOption,
) -> None:
    """Take one event back, for good. `khata corrections show` tells what became of it."""
    said = _about(target_source, target, reason)
    send_one(VOID, subject, said, source, id, validate_only, (url, key, keys_file, project), output)


def amend(
    target: str = Target,
    target_source: str = TargetSource,
    subject: str = Subject,
    data: str = typer.Option(..., help="its whole new data as JSON, like '{\"tokens\": 5}'"),
    reason: str | None = Reason,
    source: str = Source,
    id: str | None = Id,
    validate_only: bool = ValidateOnly,
    url: str | None = URL,
    key: str | None = KEY,
    keys_file: str | None = KEYS_FILE,
    project: str | None = PROJECT,
    output: Output = OutputOption,
) -> None:
    """Give one event other data; it keeps its identity, type, subject and time. The last amend stands."""
    said = _about(target_source, target, reason) | {"data": read_json(data)}
    send_one(AMEND, subject, said, source, id, validate_only, (url, key, keys_file, project), output)


def _about(source: str, id: str, reason: str | None) -> dict[str, Any]:
    return {"target": {"source": source, "id": id}} | ({} if reason is None else {"reason": reason})
