"""A key's text is in the one answer that shows it, and nowhere else that Khata writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from devstack.supervisor import services_of
from shared.catalogue import keys
from tests.conftest import Parts
from tests.integration.ingest.test_keys import Caller
from tests.support.catalogue import apply_document
from tests.support.kafka import read_topic
from tests.support.services import PEPPERS, services

pytestmark = pytest.mark.skipif(shutil.which("pg_dump") is None, reason="reads the whole database with pg_dump")


def _khata(parts: Parts, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | parts.env | {"KEY_PEPPERS": PEPPERS, "LOG_LEVEL": "DEBUG"}
    done = subprocess.run(
        [sys.executable, "-m", "cli", *arguments, "--output", "json"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done


def _shown(done: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """The key and everything else the command wrote."""
    [row] = json.loads(done.stdout)
    text = row.pop("key (shown once)")
    return text, json.dumps(row) + done.stderr


def _traces(text: str) -> Iterator[str]:
    """The key, its secret, and both as they look in a hex dump."""
    for part in (text, keys.parse(text).secret):
        yield part
        yield part.encode().hex()


def _dump(parts: Parts) -> str:
    command = ["pg_dump", "--dbname", parts.database_url]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def _files(folder: Path) -> str:
    return "".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())


async def _everything_in_kafka(parts: Parts) -> str:
    admin = AIOKafkaAdminClient(bootstrap_servers=parts.bootstrap)
    await admin.start()
    try:
        topics = [topic for topic in await admin.list_topics() if topic.startswith(parts.prefix)]
    finally:
        await admin.close()
    assert len(topics) > 10
    return "".join([repr(record) for topic in topics for record in await read_topic(parts, topic)])


async def test_a_key_is_nowhere_but_in_the_one_answer(parts: Parts, tmp_path: Path) -> None:
    await apply_document(parts)
    written: dict[str, str] = {}
    name = ("--project", "acme-app", "--name", "canary")
    first, written["create"] = _shown(_khata(parts, "keys", "create", *name))
    env = parts.env | {"LOG_LEVEL": "DEBUG", "INGEST_KEY_CACHE": str(tmp_path / "copy")}
    with services(tmp_path, env, "ingest") as running:
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
            caller = Caller(client, running.url("ingest"))
            assert (await caller.send(first)).status_code == 202
            second, written["rotate"] = _shown(_khata(parts, "keys", "rotate", "acme-app/canary"))
            # wrong ones: a typo, an unknown one, the secret under another id, one in the wrong place
            typo = second[:-1] + ("x" if second[-1] != "x" else "y")
            unknown, _ = keys.make(True)
            mixed = f"kh_live_{keys.parse(first).id}{keys.parse(second).secret}"
            mixed += keys._checksum(mixed)
            sent = [first, second, typo, unknown, mixed]
            answers = [await caller.send(key) for key in sent]
            assert [answer.status_code for answer in answers] == [202, 202, 401, 401, 401]
            misplaced = await client.post(
                f"{running.url('ingest')}/v1/events?key={second}",
                content=json.dumps({"id": second, "api_key": first}),
                headers={"Authorization": f"Basic {second}", "Content-Type": "application/json"},
            )
            assert misplaced.status_code in (400, 401)
            written["answers"] = "".join(answer.text + str(answer.headers) for answer in [*answers, misplaced])
            written["revoke"] = _khata(parts, "keys", "revoke", "acme-app/canary", "--reason", "canary").stdout
            written["list"] = _khata(parts, "keys", "list").stdout
            ready = services_of(tmp_path)["ingest"].ready_url or ""
            metrics = await client.get(ready.replace("/readyz", "/metrics"))
            assert "khata_events_accepted" in metrics.text
            written["metrics"] = metrics.text
    written["log"] = running.supervisor.log("ingest").read_text()
    written["dump"] = _dump(parts)
    written["kafka"] = await _everything_in_kafka(parts)
    written["files"] = _files(tmp_path)
    # the canaries would be seen: what may be there is there
    for place in ("dump", "kafka", "list"):
        assert keys.parse(first).id in written[place], place
    for place, text in written.items():
        assert text, place
        for key in (first, second, unknown, mixed):
            found = [trace for trace in _traces(key) if trace in text]
            assert not found, f"a key is in: {place}"  # never print it
