"""What would change something asks first; without an answer nothing is done."""

from __future__ import annotations

import sys

import pytest
import typer

from shared.runtime.output import agreed


@pytest.mark.parametrize(
    ("yes", "dry_run", "terminal", "answer", "does"),
    [
        (True, False, False, None, True),
        (True, False, True, None, True),
        (False, False, True, True, True),
        (False, False, True, False, False),
        (False, False, False, None, False),
        (False, True, True, None, False),
        (True, True, True, None, False),
    ],
)
def test_yes_an_answer_or_nothing(
    monkeypatch: pytest.MonkeyPatch, yes: bool, dry_run: bool, terminal: bool, answer: bool | None, does: bool
) -> None:
    asked: list[str] = []

    def confirm(question: str, **_: object) -> bool | None:
        asked.append(question)
        return answer

    monkeypatch.setattr(sys.stdin, "isatty", lambda: terminal)
    monkeypatch.setattr(typer, "confirm", confirm)
    assert agreed("Really?", yes=yes, dry_run=dry_run, show=["what [it] is"]) is does
    assert bool(asked) is (answer is not None)
