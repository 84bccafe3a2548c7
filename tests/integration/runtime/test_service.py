"""The life of a process: exit codes without tracebacks, draining on SIGTERM, the second signal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psycopg
import pytest
from pydantic import SecretStr

from shared.domain.errors import DatabaseAway
from shared.postgres import pool
from shared.runtime.service import exit_code
from shared.runtime.settings import DatabaseSettings
from tests.conftest import Parts
from tests.support.services import PEPPERS, free_port

PROGRAM = """
import asyncio, sys
from shared.domain.errors import DatabaseAway, Misconfigured
from shared.runtime.service import main
from shared.runtime.settings import ProcessSettings

async def child(process, kind):
    await asyncio.sleep(0)
    if kind == "retryable":
        raise DatabaseAway("Postgres is away: try later")
    if kind == "misconfigured":
        raise Misconfigured("set WHAT_IS_MISSING")
    await process.stop.wait()

async def fine():
    return None

async def run(settings, process):
    kind = sys.argv[1]
    if kind == "starts":
        print("running", flush=True)
        await process.stop.wait()
    process.health.checks |= {"fine": fine}
    if kind == "ends":
        return
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(child(process, kind))
        tasks.create_task(child(process, "waits"))
        print("running", flush=True)
        await process.stop.wait()
        print("draining", flush=True)
        if kind == "drains":
            await asyncio.sleep(0.5)
            print("drained", flush=True)
        if kind == "hangs":
            await asyncio.sleep(60)

sys.exit(main("tiny", ProcessSettings, run))
"""


@contextmanager
def tiny(kind: str, port: int) -> Iterator[subprocess.Popen[str]]:
    env = os.environ | {"METRICS_PORT": str(port)}
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), kind]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"ended without saying {text!r}")


def test_sigterm_drains_with_readiness_off_and_exits_0() -> None:
    port = free_port()
    with tiny("drains", port) as process:
        _until(process, "running")
        assert httpx2.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
        process.send_signal(signal.SIGTERM)
        _until(process, "draining")
        ready = httpx2.get(f"http://127.0.0.1:{port}/readyz", trust_env=False)
        assert (ready.status_code, ready.json()["problems"]) == (503, {"draining": "the process is stopping"})
        assert httpx2.get(f"http://127.0.0.1:{port}/livez", trust_env=False).status_code == 200
        _until(process, "drained")
        assert process.wait(5) == 0


def test_a_process_is_not_ready_before_its_service_has_said_what_ready_means() -> None:
    port = free_port()
    with tiny("starts", port) as process:
        _until(process, "running")
        ready = httpx2.get(f"http://127.0.0.1:{port}/readyz", trust_env=False)
        assert (ready.status_code, ready.json()["problems"]) == (503, {"starting": "the process is starting"})


def test_a_second_signal_ends_the_process_at_once() -> None:
    with tiny("hangs", 0) as process:
        _until(process, "running")
        process.send_signal(signal.SIGINT)
        _until(process, "draining")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 1
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("kind", "code", "sentence"),
    [
        ("retryable", 69, "khata tiny: Postgres is away: try later"),
        ("misconfigured", 78, "khata tiny: set WHAT_IS_MISSING"),
        ("ends", 1, "khata tiny: tiny ended by itself; see its log"),
    ],
)
def test_what_ends_a_process_is_one_sentence_and_an_exit_code(kind: str, code: int, sentence: str) -> None:
    with tiny(kind, 0) as process:
        _, told = process.communicate(timeout=10)
        assert (process.returncode, told.strip()) == (code, sentence)


def run(service: str, env: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and everything said by a service that cannot start."""
    whole = {"PATH": os.environ["PATH"], "KEY_PEPPERS": PEPPERS, "METRICS_PORT": "0", "HTTP_PORT": "0", **env}
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-m", "cli", "run", service],
        env=whole,
        cwd=root,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stderr


def test_wrong_settings_exit_78_with_the_whole_list() -> None:
    code, told = run("aggregator", {"METRICS_PORT": "-1", "DATABASE_URL": "mysql://u:hunter2@h/d"})
    assert code == 78
    assert all(name in told for name in ("METRICS_PORT", "DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS"))
    assert "hunter2" not in told


async def test_a_database_that_is_not_there_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "OPEN_S", 0.2)
    port = free_port()
    nobody = f"postgresql://khata:hunter2@127.0.0.1:{port}/accounts"
    database = pool.Database(DatabaseSettings(database_url=SecretStr(nobody)), "khata_aggregator", "test")
    with pytest.raises(DatabaseAway) as away:
        await database.open()
    await database.close()
    assert f"Postgres at 127.0.0.1:{port} (database accounts) does not answer" in str(away.value)
    assert "hunter2" not in str(away.value)
    assert exit_code(away.value) == 69


def test_a_broker_that_is_not_there_exits_69(parts: Parts) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    code, told = run("ingest", {**parts.env, "KAFKA_BOOTSTRAP_SERVERS": nobody})
    assert code == 69
    assert f"Kafka at {nobody} does not answer" in told


def test_a_schema_older_than_the_code_exits_78_naming_the_command(parts: Parts) -> None:
    with psycopg.connect(parts.database_url) as owner:
        owner.execute("DELETE FROM public.khata_migration WHERE number = (SELECT max(number) FROM khata_migration)")
    code, told = run("aggregator", parts.env)
    assert code == 78
    assert "run `khata db migrate`" in told


@pytest.mark.parametrize("service", ["ingest", "aggregator"])
def test_a_missing_topic_exits_78_naming_the_command(parts: Parts, service: str) -> None:
    code, told = run(service, {**parts.env, "KAFKA_TOPIC_PREFIX": f"none{uuid.uuid4().hex[:6]}."})
    assert code == 78
    assert "usage.events.v1" in told
    assert "run `khata topics apply`" in told


@pytest.mark.parametrize("variable", ["METRICS_PORT", "HTTP_PORT"])
def test_a_port_in_use_exits_78_naming_the_setting(parts: Parts, variable: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, told = run("ingest", {**parts.env, variable: str(taken.getsockname()[1])})
    assert code == 78
    assert f"{variable}: cannot listen on" in told
