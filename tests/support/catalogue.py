"""A small catalogue for tests, applied as an operator would."""

from __future__ import annotations

from typing import Any

from shared.catalogue.apply import Applied, apply_catalogue
from shared.catalogue.backfill import Events
from shared.catalogue.file import parse_catalogue
from shared.contracts.topics import CATALOGUE, USAGE_EVENTS
from shared.kafka.producer import Producer
from shared.postgres import outbox
from shared.postgres.pool import Database
from tests.conftest import Parts
from tests.support.services import peppers

DOCUMENT: dict[str, Any] = {
    "organisations": [
        {"id": "acme", "name": "Acme", "state_code": "29"},
        {"id": "zenith", "name": "Zenith", "state_code": "27"},
    ],
    "projects": [{"id": "acme-app", "organisation": "acme"}, {"id": "zenith-app", "organisation": "zenith"}],
    "meters": [
        {"id": "requests", "event_type": "api.request", "aggregation": "count"},
        {"id": "tokens", "event_type": "api.request", "aggregation": "sum", "value_path": "tokens", "unit": "token"},
    ],
    "keys": [
        {"name": "first", "project": "acme-app"},
        {"name": "second", "project": "zenith-app"},
        {"name": "trial", "project": "acme-app", "mode": "test"},
    ],
}


async def apply_document(parts: Parts, document: dict[str, Any] = DOCUMENT) -> Applied:
    """Store it and feed catalogue.v1; the new keys are in `secrets`."""
    database, producer = Database(parts.database, "khata_catalogue", "test"), Producer(parts.kafka, "test")
    await database.open()
    topic = parts.kafka.names.topic(CATALOGUE)
    try:
        async with database.transaction() as connection:
            events = Events(parts.kafka.names.topic(USAGE_EVENTS), parts.kafka.names.group("aggregator"))
            file = parse_catalogue(document, "test")
            applied = await apply_catalogue(connection, file, topic, peppers(), "test", events=events)
        while await outbox.relay_once(database, topic, producer.publish):
            pass
        return applied
    finally:
        await database.close()
        await producer.stop()
