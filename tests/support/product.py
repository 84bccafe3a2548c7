"""One whole product for the tests of the commands: every service as a process, its own database and topics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cli.stack.running import Running, running
from devstack.postgres import create_database, drop_database
from devstack.stack import Stack

ROOT = Path(__file__).parents[2]
DEADLINE_S = 110  # of one command


@dataclass(frozen=True)
class Product:
    """`khata` runs a command as a person would type it, in the repository's folder."""

    stack: Running
    env: dict[str, str] = field(repr=False)
    owner_url: str = field(repr=False)

    def khata(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cli", *arguments],
            cwd=ROOT,
            env=os.environ | self.env | more,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )

    def json(self, *arguments: str, **more: str) -> Any:
        """The command's JSON document; fails with what it said when it does not end with 0."""
        done = self.khata(*arguments, "--output", "json", **more)
        assert done.returncode == 0, f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr[-3000:]}"
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def product(stack: Stack) -> Iterator[Product]:
    """The same code as `khata dev`, on given addresses."""
    name = f"khata_product_{uuid.uuid4().hex[:8]}"
    owner_url = stack.addresses.database_url
    env = {
        "KAFKA_BOOTSTRAP_SERVERS": stack.addresses.kafka_bootstrap,
        "KAFKA_TOPIC_PREFIX": f"{name.replace('_', '-')}.",
        "DATABASE_URL": create_database(owner_url, name),
        "KHATA_DEV": "true",
    }
    with tempfile.TemporaryDirectory(prefix="khata-product-") as home, ExitStack() as started:
        env["KHATA_HOME"] = home
        with pytest.MonkeyPatch.context() as patch:  # for the start alone: other tests have an environment of theirs
            for variable, value in env.items():
                patch.setenv(variable, value)
            found = started.enter_context(running(Path(home), print))
        env |= found.plan.environment() | {"KHATA_INGEST_URL": found.plan.ingest_url}
        yield Product(found, env, owner_url)
    drop_database(owner_url, name)
