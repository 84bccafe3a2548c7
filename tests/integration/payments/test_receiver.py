"""The webhook door on a real Kafka: signed and stored, or refused and not in the topic."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator

import httpx2
import pytest
from aiokafka import AIOKafkaConsumer

from services.payments import receive
from services.payments.receive import MAX_BODY_BYTES, PATH, Door
from shared.contracts.messages.payment import WebhookMessage, decode_webhook
from shared.contracts.topics import PAYMENTS_WEBHOOKS
from shared.kafka.producer import Producer
from shared.runtime.settings import KafkaSettings
from tests.conftest import Parts
from tests.integration.payments.events import ORDER, Paid

NEW, OLD = b"the-newer-webhook-secret", b"the-older-webhook-secret"
BODY = Paid(118_000).link_paid()[1]


def signature(body: bytes, secret: bytes = NEW) -> str:
    return hmac.new(secret, body, hashlib.sha256).hexdigest()


def client(producer: Producer, topic: str) -> httpx2.AsyncClient:
    app = receive.app(Door(producer, topic, (NEW, OLD), ack_deadline_s=3.0))
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://receiver")


@pytest.fixture
async def producer(parts: Parts) -> AsyncIterator[Producer]:
    made = Producer(parts.kafka, "test-receiver")
    await made.start()
    yield made
    await made.stop()


async def stored(parts: Parts) -> list[tuple[bytes, WebhookMessage]]:
    """Everything in the topic, from its beginning to its end now."""
    topic = parts.kafka.names.topic(PAYMENTS_WEBHOOKS)
    consumer = AIOKafkaConsumer(topic, **parts.kafka.client_arguments(), auto_offset_reset="earliest")
    await consumer.start()
    try:
        ends = await consumer.end_offsets(consumer.assignment())
        found: list[tuple[bytes, WebhookMessage]] = []
        while len(found) < sum(ends.values()):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += [(record.key, decode_webhook(record.value)) for record in records]
        return found
    finally:
        await consumer.stop()


async def test_only_what_is_signed_with_an_active_secret_reaches_the_topic(parts: Parts, producer: Producer) -> None:
    good = signature(BODY)
    reworded = json.dumps(json.loads(BODY)).encode()
    assert reworded != BODY
    refused: list[tuple[bytes, list[tuple[str, str | bytes]]]] = [
        (BODY, []),
        (BODY, [("x-razorpay-signature", "")]),
        (BODY, [("x-razorpay-signature", signature(BODY, b"a-secret-of-somebody"))]),
        (BODY, [("x-razorpay-signature", "0" * 64)]),
        (BODY, [("x-razorpay-signature", good[:-1])]),
        (BODY, [("x-razorpay-signature", good.upper())]),
        (BODY, [("x-razorpay-signature", "ß".encode() * 32)]),
        (BODY, [("x-razorpay-signature", b"\xff\xfe")]),
        (BODY, [("x-razorpay-signature", good), ("x-razorpay-signature", good)]),
        (BODY[:-1] + b" ", [("x-razorpay-signature", good)]),
        (reworded, [("x-razorpay-signature", good)]),
        (b"", [("x-razorpay-signature", good)]),
    ]
    async with client(producer, parts.kafka.names.topic(PAYMENTS_WEBHOOKS)) as door:
        for body, headers in refused:
            answer = await door.post(PATH, content=body, headers=headers)  # type: ignore[arg-type]
            assert answer.status_code == 401, headers
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["code"] == "bad_signature"
        assert await stored(parts) == []

        for event_id, secret in (("first", NEW), ("second", OLD)):
            headers = [("x-razorpay-signature", signature(BODY, secret)), ("x-razorpay-event-id", event_id)]
            answer = await door.post(PATH, content=BODY, headers=headers)  # type: ignore[arg-type]
            assert (answer.status_code, answer.content) == (200, b"")

    found = await stored(parts)
    assert [(key, message.event_id, message.body) for key, message in found] == [
        (ORDER.encode(), "first", BODY),
        (ORDER.encode(), "second", BODY),
    ]


async def test_bad_json_with_a_good_signature_is_stored_under_the_digest_of_its_body(
    parts: Parts, producer: Producer
) -> None:
    body = b'{"event": "payment.captured", \xff'

    async with client(producer, parts.kafka.names.topic(PAYMENTS_WEBHOOKS)) as door:
        for given in ({}, {"x-razorpay-event-id": "no good id"}):
            headers = {"x-razorpay-signature": signature(body), **given}
            assert (await door.post(PATH, content=body, headers=headers)).status_code == 200

    name = f"sha256-{hashlib.sha256(body).hexdigest()}"
    assert [(key, m.event_id, m.body) for key, m in await stored(parts)] == [(name.encode(), name, body)] * 2


async def test_the_largest_body_fits_into_a_record_and_one_byte_more_is_413(parts: Parts, producer: Producer) -> None:
    async def pieces(size: int) -> AsyncIterator[bytes]:
        for start in range(0, size, 65_536):
            yield b"x" * min(65_536, size - start)

    largest, too_large = b"x" * MAX_BODY_BYTES, b"x" * (MAX_BODY_BYTES + 1)
    async with client(producer, parts.kafka.names.topic(PAYMENTS_WEBHOOKS)) as door:
        fits = await door.post(PATH, content=largest, headers={"x-razorpay-signature": signature(largest)})
        headers = {"x-razorpay-signature": signature(too_large)}
        declared = await door.post(PATH, content=too_large, headers=headers)
        streamed = await door.post(PATH, content=pieces(len(too_large)), headers=headers)

    assert [answer.status_code for answer in (fits, declared, streamed)] == [200, 413, 413]
    assert [len(message.body) for _, message in await stored(parts)] == [MAX_BODY_BYTES]


async def test_without_kafka_it_says_503_and_when_to_come_again() -> None:
    producer = Producer(KafkaSettings(kafka_bootstrap_servers="127.0.0.1:1"), "test-receiver")

    async with client(producer, "any") as door:
        answer = await door.post(PATH, content=BODY, headers={"x-razorpay-signature": signature(BODY)})

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["code"] == "unavailable"
