"""Processes are killed at the worst moments; a journal kept by the test says what must have been counted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from services.ingest.client import IngestClient
from shared.contracts.topics import USAGE_RAW
from shared.runtime.failpoints import arm, held
from tests.conftest import Parts
from tests.support.catalogue import apply_document
from tests.support.ingest import event
from tests.support.kafka import send
from tests.support.services import services
from tests.support.waiting import eventually


class Journal:
    """Every event that was answered with yes, by id; sends go on until there is an answer."""

    def __init__(self, client: IngestClient) -> None:
        self._client, self.accepted, self.stop = client, dict[str, int](), asyncio.Event()

    async def send(self, name: str) -> None:
        number = 0
        while not self.stop.is_set():
            events = [(f"{name}-{number}-{place}", place + 1) for place in range(20)]
            answer = await self._client.send([json.dumps(event(id, tokens)).encode() for id, tokens in events])
            assert answer.accepted == 20
            self.accepted.update(events)
            number += 1
            await asyncio.sleep(0.01)


@asynccontextmanager
async def _load(url: str, key: str) -> AsyncIterator[Journal]:
    async with IngestClient(url, key) as client:
        journal = Journal(client)
        sending = [asyncio.create_task(journal.send(f"p{number}")) for number in range(2)]
        yield journal
        journal.stop.set()
        await asyncio.wait_for(asyncio.gather(*sending), 30)


async def test_kills_in_the_middle_of_everything_lose_and_double_nothing(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    points = tmp_path / "points"
    points.mkdir()
    keys = (await apply_document(parts)).secrets
    env = parts.env | {"KHATA_FAILPOINTS_DIR": str(points)}
    raw = {f"raw-{number}": number + 1 for number in range(50)}
    with services(tmp_path / "home", env, "ingest", "aggregator") as running:
        async with _load(running.url("ingest"), keys["acme-app/first"]) as journal:
            for point in (
                "aggregator.batch.after_offsets",
                "aggregator.batch.before_commit",
                "aggregator.batch.after_commit",
                "ingest.http.before_ack",
            ):
                arm(points, point)
                os.kill(await held(points, point), signal.SIGKILL)
            arm(points, "ingest.door.before_commit")
            topic = parts.kafka.names.topic(USAGE_RAW)
            values = [json.dumps(event(id, tokens, project="acme-app")).encode() for id, tokens in raw.items()]
            await send(parts, topic, values, keys=8)
            os.kill(await held(points, "ingest.door.before_commit"), signal.SIGKILL)
            at_first = len(journal.accepted)
            await eventually(lambda: _accepted(journal), lambda accepted: accepted > at_first + 100)
        expected = journal.accepted | raw
        await eventually(lambda: _windows(parts), lambda found: found["requests"][0] >= len(expected), 30)
        assert await _windows(parts) == {
            "requests": (len(expected), Decimal(len(expected))),
            "tokens": (len(expected), Decimal(sum(expected.values()))),
        }
        assert running.supervisor.restarts("aggregator") >= 3
        assert running.supervisor.restarts("ingest") >= 2
    with psycopg.connect(parts.database_url) as owner:
        letters = owner.execute("SELECT dispositions FROM usage.segment").fetchall()
        counted = sum(row[0].count(b"c") for row in letters)
        assert counted == len(expected)
        assert owner.execute("SELECT count(*) FROM usage.conflict").fetchone() == (0,)


async def _accepted(journal: Journal) -> int:
    return len(journal.accepted)


async def _windows(parts: Parts) -> dict[str, tuple[int, Any]]:
    with psycopg.connect(parts.database_url) as owner:
        rows = owner.execute(
            "SELECT meter_id, sum(count)::bigint, sum(sum) FROM usage.window WHERE live GROUP BY meter_id"
        ).fetchall()
    return {"requests": (0, Decimal(0)), "tokens": (0, Decimal(0))} | {row[0]: (row[1], row[2]) for row in rows}
