"""Send usage straight to Kafka with aiokafka, structured mode: `python aiokafka_producer.py RUN`."""

import asyncio
import json
import os
import sys

from aiokafka import AIOKafkaProducer

TOPIC = os.environ.get("KHATA_RAW_TOPIC", "usage.raw.v1")
PROJECT = os.environ.get("KHATA_PROJECT")  # not needed on a project's own topic
HEADERS = [("content-type", b"application/cloudevents+json")]


def usage(event_id: str, subject: str, tokens: int) -> dict[str, object]:
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": "example/aiokafka",
        "type": "api.request",
        "subject": subject,
        "data": {"tokens": tokens},
    }
    return event | ({"project": PROJECT} if PROJECT else {})


async def main(run: str) -> None:
    # Idempotent and acked by all in-sync replicas: what `send_and_wait` returns for is in the log.
    producer = AIOKafkaProducer(
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"], enable_idempotence=True, acks="all"
    )
    await producer.start()
    try:
        for event in (usage(f"{run}-1", "alice", 1250), usage(f"{run}-2", "bob", 3)):
            key = str(event["subject"]).encode()  # one subject's events stay in order
            await producer.send_and_wait(TOPIC, json.dumps(event).encode(), key=key, headers=HEADERS)
    finally:
        await producer.stop()


asyncio.run(main(sys.argv[1]))
