"""Every failpoint of the list stands in the code once, and a test of the suite kills or holds a process there."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.dev import app
from shared.runtime.failpoints import POINTS, SEEN, arm, held

ROOT = Path(__file__).parents[3]
CALLS = ("failpoint", "failpoint_in_thread")


def places() -> Iterator[str]:
    """The names that the product's code passes to `failpoint`."""
    for folder in ("shared", "services", "cli"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            source = file.read_text()
            if "failpoint" in source and file.name != "failpoints.py":
                yield from _names(ast.parse(source), file)


def _names(tree: ast.AST, file: Path) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", None)) in CALLS:
            [name] = node.args
            assert isinstance(name, ast.Constant), f"{file.relative_to(ROOT)}:{node.lineno}: name it by a literal"
            yield str(name.value)


def test_each_failpoint_of_the_list_is_one_place_in_the_code_and_the_reverse() -> None:
    assert Counter(places()) == Counter(list(POINTS))


def test_each_failpoint_is_exercised_by_a_test_of_the_suite() -> None:
    """Collected as the suite does it: what each test that is not skipped declares (tests/support/failpoints.py)."""
    files = [str(file) for file in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.failpoints" in file.read_text()]
    collect = ["--collect-only", "-q", "-m", "not chaos", "-p", "tests.support.failpoints", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *collect, *files], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    [said] = [line for line in ran.stdout.splitlines() if line.startswith("declared: ")]
    assert json.loads(said.removeprefix("declared: ")) == sorted(POINTS)


def test_the_command_lists_them_all() -> None:
    ran = CliRunner().invoke(app, ["failpoints", "--output", "json"])
    assert ran.exit_code == 0
    assert {row["name"]: row["open"] for row in json.loads(ran.stdout)} == POINTS


async def test_a_point_nobody_reaches_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point, seen = "ingest.http.before_ack", tmp_path / "seen"
    seen.mkdir()
    monkeypatch.setenv(SEEN, str(seen))
    arm(tmp_path, point)
    with pytest.raises(TimeoutError):
        await held(tmp_path, point, deadline_s=0.05)
    assert list(seen.iterdir()) == []
    (tmp_path / f"{point}.armed").rename(tmp_path / f"{point}.hit-7")
    assert await held(tmp_path, point) == 7
    assert [file.name for file in seen.iterdir()] == [point]
