"""Import one file: stream rows, send batches, tell what was refused and where."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, TextIO

from services.ingest.client import IngestClient
from services.ingest.importing.lines import Form
from shared.domain.errors import Usage

BATCH_EVENTS = 500
BATCH_BYTES = 4 * 1024 * 1024  # ingest takes 5 MB a call
IN_FLIGHT = 4
SHOWN_REFUSALS = 20

Progress = Callable[[int], None]
"""Told how many bytes of the file were read so far."""


@dataclass
class Imported:
    """`refused` holds (line, code, message) of the first refusals; `rejected` counts all."""

    rows: int = 0
    accepted: int = 0
    rejected: int = 0
    refused: list[tuple[int, str, str]] = field(default_factory=list)


async def import_file(
    path: Path,
    form: Form,
    client: IngestClient,
    progress: Progress = lambda _: None,
    sent: Callable[[list[bytes]], None] = lambda _: None,
) -> Imported:
    """Send every row of the file. `sent` is told each batch once it was answered.

    Raises Usage for a file that is not of this form, before or while sending: what was sent stays,
    and importing the mended file again counts only what is new.
    """
    done = Imported()
    room = asyncio.Semaphore(IN_FLIGHT)

    async def send(lines: list[int], batch: list[bytes]) -> None:
        try:
            answer = await client.send(batch)
        finally:
            room.release()
        sent(batch)
        done.accepted += answer.accepted
        done.rejected += len(answer.refused)
        for index, code, message in answer.refused[: SHOWN_REFUSALS - len(done.refused)]:
            done.refused.append((lines[index], code, message))

    try:
        with path.open("rb") as raw, _text(raw, form) as file:
            async with asyncio.TaskGroup() as tasks:
                for lines, batch in _batches(file, form):
                    await room.acquire()
                    done.rows += len(batch)
                    tasks.create_task(send(lines, batch))
                    progress(raw.tell())
    except OSError as error:
        raise _readable(path, error) from None
    except ExceptionGroup as group:
        raise _readable(path, group.exceptions[0]) from group
    return done


def _readable(path: Path, error: Exception) -> Exception:
    match error:
        case UnicodeDecodeError():
            return Usage(f"{path} is not UTF-8 text: {error.reason}")
        case OSError():
            return Usage(f"{path}: {error.strerror}")
    return error


def _text(raw: BinaryIO, form: Form) -> TextIOWrapper:
    return TextIOWrapper(raw, encoding="utf-8-sig", errors=form.decoding_errors, newline=form.newline)


def _batches(file: TextIO, form: Form) -> Iterator[tuple[list[int], list[bytes]]]:
    lines: list[int] = []
    batch: list[bytes] = []
    size = 0
    for line, event in form.events(file):
        if batch and (len(batch) == BATCH_EVENTS or size + len(event) > BATCH_BYTES):
            yield lines, batch
            lines, batch, size = [], [], 0
        lines.append(line)
        batch.append(event)
        size += len(event) + 1
    if batch:
        yield lines, batch
