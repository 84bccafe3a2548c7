"""An event goes in at each door and comes out once, in the window of its local hour."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest

from shared.contracts.topics import USAGE_RAW
from shared.kafka.producer import Producer
from shared.postgres.outbox import OutboxMessage
from shared.postgres.pool import Database
from tests.conftest import Parts
from tests.support.catalogue import apply_document
from tests.support.services import services
from tests.support.waiting import eventually


def event(id: str, tokens: object = 1, **more: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": id,
        "source": "test",
        "type": "api.request",
        "subject": "alice",
        "time": "2026-10-31T18:29:59Z",
        "data": {"tokens": tokens},
    } | more


async def windows(parts: Parts) -> list[tuple[Any, ...]]:
    database = Database(parts.database, "khata_reader", "test")
    await database.open()
    try:
        async with database.connection() as connection:
            return await (
                await connection.execute(
                    "SELECT meter_id, subject, hour, count, sum FROM usage.window WHERE live ORDER BY meter_id, hour"
                )
            ).fetchall()
    finally:
        await database.close()


async def test_a_batch_over_http_and_a_record_over_kafka_are_counted_once(parts: Parts, tmp_path: Path) -> None:
    keys = (await apply_document(parts)).secrets
    with services(tmp_path, parts.env, "ingest", "aggregator") as running:
        batch = [event("1", 1.25), event("2", "2.5"), event("1", 1.25), event("3", 7, time="2026-10-31T18:30:00Z")]
        async with httpx2.AsyncClient() as client:
            answer = await client.post(
                running.url("ingest") + "/v1/events",
                content=json.dumps(batch),
                headers={
                    "Authorization": f"Bearer {keys['acme-app/first']}",
                    "Content-Type": "application/cloudevents-batch+json",
                },
            )
        assert answer.status_code == 202, answer.text
        assert answer.json() == {"accepted": 4, "rejected": 0, "errors": [], "times": {}}

        producer = Producer(parts.kafka, "test")
        raw = json.dumps(event("2", 2.50, project="acme-app")).encode()
        more = json.dumps(event("4", 100, project="acme-app")).encode()
        topic = parts.kafka.names.topic(USAGE_RAW)
        await producer.send([OutboxMessage(topic, b"k", raw), OutboxMessage(topic, b"k", more)])
        await producer.stop()

        october, november = datetime(2026, 10, 31, 17, 30, tzinfo=UTC), datetime(2026, 10, 31, 18, 30, tzinfo=UTC)
        found = await eventually(lambda: windows(parts), lambda rows: sum(row[3] for row in rows) >= 8)
    assert found == [
        ("requests", "alice", october, 3, Decimal(3)),
        ("requests", "alice", november, 1, Decimal(1)),
        ("tokens", "alice", october, 3, Decimal("103.75")),
        ("tokens", "alice", november, 1, Decimal(7)),
    ]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
