"""The producers that people copy work as they stand, over HTTP and over Kafka."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

from shared.contracts.messages.event import StampedEvent, decode_event
from shared.contracts.topics import USAGE_EVENTS, USAGE_RAW, project_raw
from tests.conftest import ROOT, Parts
from tests.integration.ingest.test_raw_topics import apply, with_own_topics
from tests.support.kafka import read_topic
from tests.support.services import services
from tests.support.waiting import eventually

FOLDER = ROOT / "examples" / "producers"
OVER_HTTP = ("curl.sh", "cloudevents_http.py")
OVER_KAFKA = ("aiokafka_producer.py", "confluent_producer.py")


async def events(parts: Parts) -> list[StampedEvent]:
    records = await read_topic(parts, parts.kafka.names.topic(USAGE_EVENTS))
    return [decode_event(record.value or b"") for record in records]


async def run(name: str, argument: str, **env: str) -> None:
    program = ["sh"] if name.endswith(".sh") else [sys.executable]
    done = await asyncio.to_thread(
        subprocess.run,
        [*program, str(FOLDER / name), argument],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{name}: {done.stdout}\n{done.stderr}"


async def test_every_producer_is_taken_and_the_same_run_is_the_same_two_events(parts: Parts, tmp_path: Path) -> None:
    keys = await apply(parts, with_own_topics("zenith-app"))
    names = parts.kafka.names
    with services(tmp_path, parts.env, "ingest") as running:
        over_http = {"KHATA_INGEST_URL": running.url("ingest"), "KHATA_API_KEY": keys["acme-app/first"]}
        common = {"KHATA_RAW_TOPIC": names.topic(USAGE_RAW), "KHATA_PROJECT": "acme-app"}
        own = {"KHATA_RAW_TOPIC": names.topic(project_raw("zenith-app"))}
        for name in OVER_HTTP:
            await run(name, f"{name}-run", **over_http)
            await run(name, f"{name}-run", **over_http)
        for name in OVER_KAFKA:
            await run(name, f"{name}-common", **parts.env, **common)
            await run(name, f"{name}-own", **parts.env, **own)
        found = await eventually(lambda: events(parts), lambda some: len(some) >= 16, deadline_s=30)
    per_source = {(event.source, event.id): event.project for event in found}
    assert len(found) == 16
    assert sorted(id for _, id in per_source) == sorted(
        f"{name}-{which}-{number}"
        for names_, whiches in ((OVER_HTTP, ("run",)), (OVER_KAFKA, ("common", "own")))
        for name in names_
        for which in whiches
        for number in (1, 2)
    )
    assert {project for (_, id), project in per_source.items() if "-own-" in id} == {"zenith-app"}
    assert {project for (_, id), project in per_source.items() if "-own-" not in id} == {"acme-app"}
    assert {event.subject for event in found} == {"alice", "bob", "Zoë"}


def test_the_readme_names_every_producer() -> None:
    told = set(re.findall(r"`(\w+\.(?:py|sh))`", (FOLDER / "README.md").read_text()))
    assert (
        told == {path.name for path in FOLDER.iterdir() if path.suffix in (".py", ".sh")} == {*OVER_HTTP, *OVER_KAFKA}
    )
