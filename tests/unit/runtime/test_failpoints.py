"""Every failpoint of the list stands in the code once, and a test of the suite kills or holds a process there."""

from __future__ import annotations

import ast
import json
import os
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


def run_pytest(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)


def test_each_failpoint_is_exercised_by_a_test_of_the_suite() -> None:
    """Collected as the suite does it: what each test that is not skipped declares (tests/support/failpoints.py)."""
    files = [str(file) for file in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.failpoints" in file.read_text()]
    ran = run_pytest("--collect-only", "-m", "not chaos", "-p", "tests.support.failpoints", *files)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    [said] = [line for line in ran.stdout.splitlines() if line.startswith("declared: ")]
    assert json.loads(said.removeprefix("declared: ")) == sorted(POINTS)


EMPTY_PROMISES = """
import pytest

@pytest.mark.failpoints("ingest.http.before_ack")
def test_that_does_not_get_there(): pass

@pytest.mark.failpoints
@pytest.mark.parametrize("point", ["spool.purge.before_delete"])
def test_that_skips_itself(point): pytest.skip("not today")
"""


def test_a_test_that_declares_a_point_and_does_not_see_it_held_fails(tmp_path: Path) -> None:
    (tmp_path / "test_promises.py").write_text(EMPTY_PROMISES)
    ran = run_pytest("-c", os.devnull, "--rootdir", str(tmp_path), "-p", "tests.integration.conftest", str(tmp_path))
    assert "1 passed, 1 skipped, 2 errors" in ran.stdout, ran.stdout + ran.stderr
    for name in ("ingest.http.before_ack", "spool.purge.before_delete"):
        assert f"but no process was held there: ['{name}']" in ran.stdout


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
