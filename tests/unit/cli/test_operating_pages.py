"""The commands of the operating pages exist, with those options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from cli.main import compose

PAGES = sorted((Path(__file__).parents[3] / "docs" / "operating").glob("*.md"))


def commands() -> list[str]:
    blocks = [block for page in PAGES for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)]
    return [line for block in blocks for line in block.splitlines() if line.startswith("khata ")]


def parse(line: str) -> Any:
    """The context of its last command; whatever is no command or option of it raises."""
    command: Any = get_command(compose())
    words = shlex.split(line, comments=True)[1:]
    context = None
    while hasattr(command, "resolve_command"):
        context = command.make_context("khata", [], parent=context, resilient_parsing=True)
        name, command, words = command.resolve_command(context, words)
        assert command is not None, f"No such command: {line}"
    return command.make_context(name, words, parent=context)


@pytest.mark.parametrize("line", commands())
def test_a_command_of_a_page_is_one(line: str) -> None:
    assert parse(line).command.callback is not None


def test_what_is_none_is_found() -> None:
    assert len(commands()) >= 7
    for wrong in ("khata dead-letters redo", "khata dead-letters list --colour red", "khata offsets rewind --group a"):
        with pytest.raises(Exception, match=r"No such (command|option)|Missing parameter"):
            parse(wrong)
