"""What stops the Kafka door never closes the HTTP door."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import httpx2

from shared.contracts.topics import USAGE_RAW
from tests.conftest import Parts
from tests.support.catalogue import apply_document
from tests.support.services import services
from tests.support.waiting import eventually

# aiokafka's Python encoder lets a header name through that is no UTF-8; its decoder then refuses the record.
POISON = """
import asyncio, sys
from aiokafka import AIOKafkaProducer

class Name(str):
    def encode(self, *_, **__):
        return b"\\xff\\xfe"

async def send(servers, topic):
    producer = AIOKafkaProducer(bootstrap_servers=servers)
    await producer.start()
    await producer.send_and_wait(topic, b"{}", headers=[(Name("x"), b"1")])
    await producer.stop()

asyncio.run(send(*sys.argv[1:]))
"""


async def test_a_record_no_client_can_decode_leaves_http_open(parts: Parts, tmp_path: Path) -> None:
    keys = (await apply_document(parts)).secrets
    with services(tmp_path, parts.env, "ingest") as running:
        await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", POISON, parts.bootstrap, parts.kafka.names.topic(USAGE_RAW)],
            env=os.environ | {"AIOKAFKA_NO_EXTENSIONS": "1"},
            check=True,
        )
        log = tmp_path / "logs" / "ingest.log"

        async def told() -> bool:
            return "ingest.kafka_door_closed" in log.read_text()

        await eventually(told)
        assert "cannot be decoded" in log.read_text()
        async with httpx2.AsyncClient(trust_env=False) as client:
            answer = await client.post(
                running.url("ingest") + "/v1/events",
                json={
                    "specversion": "1.0",
                    "id": "1",
                    "source": "s",
                    "type": "api.request",
                    "subject": "a",
                    "data": {"tokens": 1},
                },
                headers={"Authorization": f"Bearer {keys['acme-app/first']}"},
            )
        assert answer.status_code == 202, answer.text
        assert running.supervisor.restarts("ingest") == 0
