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
from rich.markup import escape
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
    console = Console(highlight=False)
    if not rows:
        console.print("nothing to show")
        return
    texts = [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    width = sum(max(len(text[name]) for text in [*texts, {name: name}]) + 3 for name in rows[0]) + 1
    if width > console.width and console.is_terminal:
        _records(console, texts, title)
        return
    table = Table(title=title, title_justify="left")
    for name, value in rows[0].items():
        right = isinstance(value, int) and not isinstance(value, bool)
        table.add_column(name.replace("_", " "), justify="right" if right else "left", no_wrap=True)
    for text in texts:
        table.add_row(*map(escape, text.values()))
    if not console.is_terminal:  # what is piped on has no width to fit
        console.width = max(width, console.width)
    console.print(table)


def _records(console: Console, rows: Sequence[Mapping[str, str]], title: str | None) -> None:
    """One block per row, for rows wider than the terminal: an id that is cut is no id."""
    if title:
        console.print(escape(title), style="italic")
    longest = max(len(name) for name in rows[0])
    for row in rows:
        for number, (name, value) in enumerate(row.items()):
            label = name.replace("_", " ").ljust(longest)
            console.print(f"[bold]{label}  {escape(value)}[/bold]" if number == 0 else f"{label}  {escape(value)}")
        console.print()


def agreed(question: str, *, yes: bool, dry_run: bool, show: Sequence[str] = ()) -> bool:
    """Whether a command may do what it was asked for; `show` is what an operator reads before answering.

    Without --yes and without a terminal to ask at, nothing is done: then a remark says so.
    """
    if yes and not dry_run:
        return True
    if dry_run or not sys.stdin.isatty():
        stderr.print("dry run: nothing was changed" + ("" if dry_run else "; add --yes to do it"))
        return False
    for line in show:
        stderr.print(line, markup=False, highlight=False)
    return typer.confirm(question, err=True)


def show_document(document: Mapping[str, Any]) -> None:
    json.dump(document, sys.stdout, indent=2, default=str)
    print()


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine."""
    return asyncio.run(work)
