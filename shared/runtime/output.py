"""Data on stdout as a table or as JSON; progress and remarks on stderr."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine, Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

T = TypeVar("T")

stderr = Console(stderr=True)


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


OutputOption = typer.Option(Output.TABLE, "--output", help="table for people, json for programs")


def show(rows: Sequence[Mapping[str, Any]], output: Output, *, title: str | None = None) -> None:
    """Rows with the same keys; an empty list says so."""
    if output is Output.JSON:
        json.dump(list(rows), sys.stdout, indent=2, default=str)
        print()
        return
    console = Console()
    if not rows:
        console.print("nothing to show")
        return
    table = Table(title=title, title_justify="left")
    for name, value in rows[0].items():
        right = isinstance(value, int) and not isinstance(value, bool)
        # An id is never cut: the first column keeps its line, the others fold.
        first = name == next(iter(rows[0]))
        table.add_column(name.replace("_", " "), justify="right" if right else "left", overflow="fold", no_wrap=first)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console.print(table)


def show_document(document: Mapping[str, Any]) -> None:
    json.dump(document, sys.stdout, indent=2, default=str)
    print()


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine."""
    return asyncio.run(work)
