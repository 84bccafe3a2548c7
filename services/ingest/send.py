"""`khata events send`: one event from options or from stdin."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
import typer
from uuid_utils import uuid7

from services.ingest.client import Answer, IngestClient
from services.ingest.key_choice import KEY, KEYS_FILE, PROJECT, URL, address, choose
from shared.domain.errors import Rejected, Usage
from shared.runtime.output import Output, OutputOption, show, show_document

SOURCE = "khata-events-send"


def send(
    type: str | None = typer.Option(None, help="event type, as a meter names it"),
    subject: str | None = typer.Option(None, help="whose usage it is"),
    data: str | None = typer.Option(None, help="JSON, like '{\"tokens\": 5}'"),
    source: str = typer.Option(SOURCE, help="where it comes from; part of its identity"),
    id: str | None = typer.Option(None, help="part of its identity; a new one when left out"),
    time: str | None = typer.Option(None, help="RFC 3339 with zone; now when left out"),
    stdin: bool = typer.Option(False, "--stdin", help="read one CloudEvent as JSON from stdin instead"),
    validate_only: bool = typer.Option(False, "--validate-only", help="say what would become of it, send nothing"),
    url: str | None = URL,
    key: str | None = KEY,
    keys_file: str | None = KEYS_FILE,
    project: str | None = PROJECT,
    output: Output = OutputOption,
) -> None:
    """Send one event and tell what became of it. The same id and source again is the same event."""
    if stdin:
        if type or subject or data or id or time:
            raise Usage("--stdin takes the whole event: leave the other options out")
        event = _object(sys.stdin.buffer.read(), "stdin")
    else:
        event = _from_options(type, subject, data, source, id, time)
    _send(event, (url, key, keys_file, project), validate_only, output)


Door = tuple[str | None, str | None, str | None, str | None]
"""Address, key, keys file and project, as they are typed."""


def send_one(
    type: str,
    subject: str,
    data: dict[str, Any],
    source: str,
    id: str | None,
    validate_only: bool,
    door: Door,
    output: Output,
) -> None:
    """One event made of these; its time is now."""
    text = msgspec.json.encode(data).decode()
    _send(_from_options(type, subject, text, source, id, None), door, validate_only, output)


def _send(event: dict[str, Any], door: Door, validate_only: bool, output: Output) -> None:
    url, key, keys_file, project = door
    secret = choose(key, keys_file, project)

    async def work() -> Answer:
        async with IngestClient(address(url), secret) as client:
            return await client.send([msgspec.json.encode(event)], validate_only=validate_only)

    try:
        answer = asyncio.run(work())
    except Rejected as error:
        answer = Answer(0, ((0, error.code, error.message),), 1)
    _tell(event, answer, validate_only, output)


def _from_options(
    type: str | None, subject: str | None, data: str | None, source: str, id: str | None, time: str | None
) -> dict[str, Any]:
    if type is None or subject is None:
        raise Usage("an event needs --type and --subject (or give a whole one with --stdin)")
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": id or str(uuid7()),
        "source": source,
        "type": type,
        "subject": subject,
        "time": time or datetime.now(UTC).isoformat(),
    }
    if data is not None:
        event["data"] = read_json(data)
    return event


def read_json(data: str) -> msgspec.Raw:
    """The text itself is sent: a number is never read as a float. Raises Usage."""
    try:
        msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Usage(f"--data is not JSON: {error}") from None
    return msgspec.Raw(data.encode())


def _object(text: bytes, name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = dict(msgspec.json.decode(text, type=dict[str, msgspec.Raw]))
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Usage(f"{name} is not one JSON object: {error}") from None
    return found


def _tell(event: dict[str, Any], answer: Answer, validate_only: bool, output: Output) -> None:
    refused = answer.refused[0] if answer.refused else None
    outcome = "refused" if refused else ("would be accepted" if validate_only else "accepted")
    row: dict[str, Any] = {"id": _text(event.get("id")), "source": _text(event.get("source")), "outcome": outcome}
    if refused:
        row |= {"code": refused[1], "message": refused[2]}
    if output is Output.JSON:
        show_document(row)
    else:
        show([row], output)
    if refused:
        raise typer.Exit(1)


def _text(value: Any) -> str:
    """An attribute as sent: a text, or its JSON as it stood on stdin."""
    if isinstance(value, msgspec.Raw):
        value = msgspec.json.decode(value)
    return "" if value is None else str(value)
