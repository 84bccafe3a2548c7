"""Which failpoints a test exercises, as it declares them: `@pytest.mark.failpoints("a.b.c", ...)`.

Without names it is the test's parameter `point`. A declaration is a promise: tests/integration/conftest.py fails a test
that has ended without seeing each of its points held (a skip in its body included), and
tests/unit/runtime/test_failpoints.py fails when a listed failpoint is declared by no test of the suite. So nothing is
remembered between tests: a part of the suite, one test, or several workers give the same answer.

As a plugin (`-p tests.support.failpoints --collect-only`) it prints what is declared.
"""

from __future__ import annotations

import json

import pytest

MARK = "failpoints"
SKIPS = ("skip", "skipif")


def declared(item: pytest.Item) -> frozenset[str]:
    """Names of the points that the test declares."""
    names: set[str] = set()
    for mark in item.iter_markers(MARK):
        callspec = getattr(item, "callspec", None)
        names |= set(mark.args) if mark.args else {callspec.params["point"]}  # type: ignore[union-attr]
    return frozenset(names)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARK}(*names): the failpoints that the test must see held")


def pytest_collection_finish(session: pytest.Session) -> None:
    counted = [item for item in session.items if not any(item.get_closest_marker(skip) for skip in SKIPS)]
    print("declared:", json.dumps(sorted({name for item in counted for name in declared(item)})))
