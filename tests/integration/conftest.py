"""A test that declares failpoints has seen each of them held, or it fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.runtime.failpoints import SEEN
from tests.support import failpoints


def pytest_configure(config: pytest.Config) -> None:
    failpoints.pytest_configure(config)


@pytest.fixture(autouse=True)
def declared_failpoints(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Also of commands that the test runs: they inherit the environment."""
    wanted = failpoints.declared(request.node)
    if not wanted:
        yield
        return
    seen = tmp_path_factory.mktemp("seen")
    monkeypatch.setenv(SEEN, str(seen))
    yield
    missing = wanted - {file.name for file in seen.iterdir()}
    assert not missing, f"declared by the test, but no process was held there: {sorted(missing)}"
