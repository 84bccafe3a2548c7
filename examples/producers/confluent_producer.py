"""Send usage straight to Kafka with confluent-kafka, binary mode: `python confluent_producer.py RUN`."""

import json
import os
import sys

from confluent_kafka import Producer

TOPIC = os.environ.get("KHATA_RAW_TOPIC", "usage.raw.v1")
PROJECT = os.environ.get("KHATA_PROJECT")  # not needed on a project's own topic

failed: list[str] = []


def usage(event_id: str, subject: str) -> list[tuple[str, bytes]]:
    """In binary mode the attributes are headers, and the record's value is the data."""
    attributes = {
        "specversion": "1.0",
        "id": event_id,
        "source": "example/confluent-kafka",
        "type": "api.request",
        "subject": subject,
    }
    if PROJECT:
        attributes["project"] = PROJECT
    return [
        ("content-type", b"application/json"),
        *((f"ce_{name}", text.encode()) for name, text in attributes.items()),
    ]


def delivered(error: object, _: object) -> None:
    if error is not None:
        failed.append(str(error))


run = sys.argv[1]
producer = Producer(
    {
        "bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        "enable.idempotence": True,  # and with it acks=all
        "partitioner": "murmur2_random",  # as Java and aiokafka choose partitions
    }
)
for event_id, subject, tokens in ((f"{run}-1", "alice", 1250), (f"{run}-2", "Zoë", 3)):
    value = json.dumps({"tokens": tokens}).encode()
    producer.produce(TOPIC, value, subject.encode(), headers=usage(event_id, subject), on_delivery=delivered)
left = producer.flush(30)
if left or failed:
    sys.exit(f"not delivered: {left} without an answer; {'; '.join(failed)}")
