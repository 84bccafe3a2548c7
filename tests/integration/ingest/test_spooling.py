"""An edge accepts into its spool first; what it holds arrives, at the latest when it stops.

What happens while Kafka is away: tests/integration/faults.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from shared.contracts.topics import USAGE_EVENTS
from shared.domain.errors import Misconfigured
from tests.conftest import Parts
from tests.support.catalogue import apply_document
from tests.support.kafka import read_topic
from tests.support.services import Services, services
from tests.support.waiting import eventually


def event(number: int) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"{number}",
        "source": "spooling",
        "type": "api.request",
        "subject": "alice",
        "data": {"tokens": 1},
    }


async def send(running: Services, key: str, first: int, count: int) -> int:
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        answer = await client.post(
            running.url("ingest") + "/v1/events",
            content=json.dumps([event(number) for number in range(first, first + count)]),
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/cloudevents-batch+json"},
        )
    return answer.status_code


async def ids_in_the_log(parts: Parts) -> list[str]:
    records = await read_topic(parts, parts.kafka.names.topic(USAGE_EVENTS))
    return [json.loads(record.value or b"{}")["id"] for record in records]


@pytest.fixture
def spooling(parts: Parts, tmp_path: Path) -> dict[str, str]:
    return parts.env | {"SPOOL_PATH": str(tmp_path / "spool.sqlite3"), "SPOOL_MIN_FREE_BYTES": "0"}


async def test_everything_goes_through_the_spool_at_an_edge_and_arrives(
    parts: Parts, tmp_path: Path, spooling: dict[str, str]
) -> None:
    keys = (await apply_document(parts)).secrets
    with services(tmp_path, spooling | {"INGEST_ACCEPT": "spool"}, "ingest") as running:
        assert await send(running, keys["acme-app/first"], 0, 50) == 202
        found = await eventually(lambda: ids_in_the_log(parts), lambda ids: len(ids) >= 50)
    assert sorted(map(int, found)) == list(range(50))


async def test_a_stop_drains_what_was_accepted(parts: Parts, tmp_path: Path, spooling: dict[str, str]) -> None:
    keys = (await apply_document(parts)).secrets
    with services(tmp_path, spooling | {"INGEST_ACCEPT": "spool"}, "ingest") as running:
        for call in range(5):
            assert await send(running, keys["acme-app/first"], call * 100, 100) == 202
    assert sorted(map(int, set(await ids_in_the_log(parts)))) == list(range(500))


def test_spool_first_without_a_spool_is_a_mistake_of_the_settings(parts: Parts, tmp_path: Path) -> None:
    wrong = parts.env | {"INGEST_ACCEPT": "spool"}
    with pytest.raises(Misconfigured, match="SPOOL_PATH"), services(tmp_path, wrong, "ingest"):
        pass
