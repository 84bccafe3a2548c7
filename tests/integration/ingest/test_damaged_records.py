"""A record whose header names are no UTF-8 stops nothing: neither the Kafka door nor the HTTP door."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from shared.contracts.headers import DLQ_ERROR_CODE, DLQ_OFFSET, first
from shared.contracts.topics import USAGE_EVENTS, USAGE_RAW
from tests.conftest import Parts
from tests.support.catalogue import apply_document
from tests.support.kafka import read_topic, send
from tests.support.services import services
from tests.support.waiting import eventually

# aiokafka's Python encoder lets a header name through that is no UTF-8; its decoder then refuses the record.
POISON = """
import asyncio, sys
from aiokafka import AIOKafkaProducer

class Name(str):
    def encode(self, *_, **__):
        return b"\\xff\\xfe"

async def send(servers, topic, key):
    producer = AIOKafkaProducer(bootstrap_servers=servers)
    await producer.start()
    await producer.send_and_wait(topic, b"{}", key.encode(), headers=[(Name("x"), b"1")])
    await producer.stop()

asyncio.run(send(*sys.argv[1:]))
"""


async def test_a_record_with_an_unreadable_header_name_is_a_dead_letter_and_stops_nothing(
    parts: Parts, tmp_path: Path
) -> None:
    await apply_document(parts)
    raw = parts.kafka.names.topic(USAGE_RAW)

    def good(number: int) -> bytes:
        return json.dumps(event(number)).encode()

    await send(parts, raw, [good(number) for number in range(20)], keys=1)
    await poison(parts, raw, b"k0")
    await send(parts, raw, [good(number) for number in range(20, 40)], keys=1)
    with services(tmp_path, parts.env, "ingest") as running:

        async def arrived() -> list[int]:
            return sorted(int(json.loads(r.value or b"")["id"]) for r in await read_topic(parts, events(parts)))

        await eventually(arrived, lambda found: len(found) >= 40)
        await poison(parts, raw, b"k0")
        await poison(parts, raw, b"k0")
        await send(parts, raw, [good(number) for number in range(40, 60)], keys=1)
        found = await eventually(arrived, lambda found: len(found) >= 60)
        assert running.supervisor.restarts("ingest") == 0
    assert found == list(range(60))
    letters = await read_topic(parts, raw + ".dlq")
    assert {first(letter.headers, DLQ_ERROR_CODE) for letter in letters} == {b"malformed"}
    assert len({first(letter.headers, DLQ_OFFSET) for letter in letters}) == 3
    assert {letter.value for letter in letters} == {b"{}"}
    assert "ingest.kafka_door_closed" not in (tmp_path / "logs" / "ingest.log").read_text()


async def poison(parts: Parts, topic: str, key: bytes) -> None:
    await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", POISON, parts.bootstrap, topic, key],
        env=os.environ | {"AIOKAFKA_NO_EXTENSIONS": "1"},
        check=True,
    )


def event(number: int) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"{number}",
        "source": "s",
        "type": "api.request",
        "subject": "a",
        "project": "acme-app",
        "data": {"tokens": 1},
    }


def events(parts: Parts) -> str:
    return parts.kafka.names.topic(USAGE_EVENTS)
