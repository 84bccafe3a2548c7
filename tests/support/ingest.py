"""The HTTP door of ingest in this process, without a socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2

from services.ingest import http
from services.ingest.activity import Activity
from services.ingest.settings import IngestSettings
from shared.catalogue import keys
from shared.catalogue.cache import CatalogueCache
from shared.contracts.messages.catalogue import ApiKeyMessage, MeterMessage, ProjectMessage, encode_catalogue
from shared.contracts.messages.event import StampedEvent, decode_event
from shared.kafka.producer import AckedSender, Producer
from shared.postgres.outbox import OutboxMessage
from shared.runtime.settings import KafkaSettings
from tests.support.services import PEPPERS, peppers

ONE = "application/cloudevents+json"
MANY = "application/cloudevents-batch+json"


def event(id: object = "1", tokens: object = 1, **more: Any) -> dict[str, Any]:
    """A CloudEvent; `None` in `more` takes an attribute away."""
    whole = {
        "specversion": "1.0",
        "id": id,
        "source": "test",
        "type": "api.request",
        "subject": "alice",
        "time": (datetime.now(UTC) - timedelta(minutes=1)).isoformat(),
        "data": {"tokens": tokens},
    } | more
    return {name: value for name, value in whole.items() if value is not None}


@dataclass
class Taken:
    """Stands for the producer: everything is acked, and kept here."""

    messages: list[OutboxMessage] = field(default_factory=list)

    async def send(self, messages: Sequence[OutboxMessage], deadline_s: float = 1.0) -> list[tuple[int, int]]:
        self.messages += messages
        return [(0, len(self.messages))] * len(messages)

    @property
    def events(self) -> list[StampedEvent]:
        return [decode_event(message.value or b"") for message in self.messages]


@dataclass
class HttpDoor:
    """Posts to /v1/events; `keys` by name."""

    door: http.Door
    keys: dict[str, str]
    client: httpx2.AsyncClient

    async def post(
        self, content: Any, *, key: str | None = "first", media_type: str | None = None, headers: Any = None
    ) -> httpx2.Response:
        """`content`: bytes as they are, or a document; `key`: a name of `keys`, the header's text, or None."""
        sent = dict(headers or {})
        if key is not None:
            sent["Authorization"] = f"Bearer {self.keys.get(key, key)}"
        if not isinstance(content, bytes):
            media_type = media_type or (MANY if isinstance(content, list) else ONE)
            content = json.dumps(content).encode()
        sent["Content-Type"] = media_type or ONE
        return await self.client.post("/v1/events", content=content, headers=sent)


def settings(kafka: KafkaSettings, **more: Any) -> IngestSettings:
    return IngestSettings(
        kafka_bootstrap_servers=kafka.kafka_bootstrap_servers,
        kafka_topic_prefix=kafka.kafka_topic_prefix,
        key_peppers=PEPPERS,
        **more,
    )


def small_catalogue(*, unknown_types: bool = False) -> tuple[CatalogueCache, dict[str, str]]:
    """A cache that was read to its end, and keys of every kind by name."""
    cache, texts = CatalogueCache(), {}
    cache.learn(encode_catalogue(ProjectMessage("acme-app", 1, "acme", "Acme app", unknown_types)))
    cache.learn(encode_catalogue(MeterMessage("tokens", 1, "T", "api.request", "sum", "tokens", "token", True)))
    past = datetime.now(UTC) - timedelta(seconds=1)
    kinds: dict[str, dict[str, Any]] = {
        "first": {},
        "trial": {"live": False},
        "revoked": {"revoked_at": past},
        "expired": {"expires_at": past},
        "reader": {"scopes": ("usage:read",)},
        "lost_pepper": {"pepper_id": "gone"},
    }
    for name, more in kinds.items():
        texts[name], parsed = keys.make(more.get("live", True))
        hashed = keys.hash_secret(peppers()["test1"], parsed).hex()
        values = {"live": True, "pepper_id": "test1", "scopes": ("events:write",)} | more
        cache.learn(
            encode_catalogue(
                ApiKeyMessage(
                    id=parsed.id, version=1, organisation_id="acme", project_id="acme-app", secret_hash=hashed, **values
                )
            )
        )
    texts["unknown"] = keys.make(True)[0]
    cache.seen_end()
    return cache, texts


@asynccontextmanager
async def http_door(
    kafka: KafkaSettings,
    cache: CatalogueCache,
    texts: dict[str, str],
    *,
    sender: AckedSender | None = None,
    limits: http.Limits | None = None,
    activity: Activity | None = None,
    **more: Any,
) -> AsyncIterator[HttpDoor]:
    """`sender` takes the place of Kafka."""
    producer = Producer(kafka, "test")
    door = http.Door(settings(kafka, **more), cache, sender or producer, "ingest-test", limits, activity)
    transport = httpx2.ASGITransport(app=http.app(door), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://ingest") as client:
        yield HttpDoor(door, texts, client)
    await producer.stop()
