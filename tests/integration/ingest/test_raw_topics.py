"""Raw topics of projects: named by the catalogue, read from their beginning, waited for by the close."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from cli.catalogue import CatalogueSettings, apply_file
from cli.topics import TopicsSettings, _apply
from services.invoicer import barrier
from services.invoicer.progress import silent
from shared.catalogue.file import parse_catalogue
from shared.contracts.messages.event import StampedEvent, decode_event
from shared.contracts.topics import USAGE_EVENTS, USAGE_RAW, project_raw
from shared.domain.errors import Retryable, Usage
from shared.kafka import topics
from shared.kafka.producer import Producer
from shared.postgres.outbox import OutboxMessage
from tests.conftest import Parts
from tests.support.catalogue import DOCUMENT
from tests.support.ingest import event
from tests.support.kafka import admin, committed, read_topic
from tests.support.services import PEPPERS, services
from tests.support.usage import opened
from tests.support.waiting import eventually

BINARY = (
    ("ce_specversion", b"1.0"),
    ("ce_id", b"b1"),
    ("ce_source", b"test"),
    ("ce_type", b"api.request"),
    ("ce_subject", "Zoë".encode()),
    ("content-type", b"application/json"),
)


def with_own_topics(*projects: str) -> dict[str, Any]:
    entries = [entry | ({"raw_topic": True} if entry["id"] in projects else {}) for entry in DOCUMENT["projects"]]
    return DOCUMENT | {"projects": entries}


async def apply(parts: Parts, document: dict[str, Any]) -> dict[str, str]:
    """As `khata catalogue apply` does, topics included; returns new keys."""
    settings = CatalogueSettings.model_validate(
        parts.kafka.model_dump() | {"database_url": parts.database_url, "key_peppers": PEPPERS, "KHATA_DEV": True}
    )
    outcome = await apply_file(settings, parse_catalogue(document, "test"))
    assert outcome.fed
    return outcome.secrets


def raw(parts: Parts, project: str) -> str:
    return parts.kafka.names.topic(project_raw(project))


async def send(parts: Parts, topic: str, body: Any, headers: tuple[tuple[str, bytes], ...] = ()) -> None:
    producer = Producer(parts.kafka, "test")
    value = body if isinstance(body, bytes) else json.dumps(body).encode()
    await producer.send([OutboxMessage(topic, b"k", value, headers)])
    await producer.stop()


async def events(parts: Parts) -> list[StampedEvent]:
    records = await read_topic(parts, parts.kafka.names.topic(USAGE_EVENTS))
    return [decode_event(record.value or b"") for record in records]


async def pass_barrier(parts: Parts, deadline_s: float = 0.3) -> None:
    """Raises Retryable when the Kafka door lags."""
    async with opened(parts.database_url, "khata_invoicer") as database:
        await barrier.wait(parts.kafka, database, silent, deadline_s)


async def test_a_topic_that_appears_while_the_door_is_open_is_read_from_its_beginning(
    parts: Parts, tmp_path: Any
) -> None:
    await apply(parts, DOCUMENT)
    with services(tmp_path, parts.env, "ingest") as running:
        await send(parts, parts.kafka.names.topic(USAGE_RAW), event("common", project="zenith-app"))
        await eventually(lambda: events(parts), lambda found: len(found) == 1)
        await apply(parts, with_own_topics("acme-app"))
        # The topic exists now; what is in it before the door has noticed is read all the same.
        await send(parts, raw(parts, "acme-app"), event("own"))
        await send(parts, raw(parts, "acme-app"), b'{"tokens": 2.50}', BINARY)
        await send(parts, raw(parts, "acme-app"), event("stolen", project="zenith-app"))
        found = await eventually(lambda: events(parts), lambda some: len(some) == 3, deadline_s=30)
        assert sorted((one.id, one.project, one.subject) for one in found) == [
            ("b1", "acme-app", "Zoë"),
            ("common", "zenith-app", "alice"),
            ("own", "acme-app", "alice"),
        ]
        assert bytes(next(one for one in found if one.id == "b1").data) == b'{"tokens": 2.50}'
        [letter] = await eventually(lambda: read_topic(parts, raw(parts, "acme-app") + ".dlq"))
        assert dict(letter.headers)["dlq.error_code"] == b"wrong_project"
        assert dict(letter.headers)["dlq.topic"] == raw(parts, "acme-app").encode()
        assert running.supervisor.restarts("ingest") == 0


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_the_close_waits_for_every_raw_topic_and_markers_do_not_hold_it(parts: Parts, tmp_path: Any) -> None:
    await apply(parts, with_own_topics("acme-app"))
    topic = raw(parts, "acme-app")
    producer = AIOKafkaProducer(bootstrap_servers=parts.bootstrap, transactional_id=f"{parts.prefix}own")
    await producer.start()
    for id, keep in (("kept", True), ("aborted", False)):
        await producer.begin_transaction()
        await producer.send_and_wait(topic, json.dumps(event(id)).encode(), partition=0)
        await (producer.commit_transaction() if keep else producer.abort_transaction())
    await producer.stop()
    with pytest.raises(Retryable, match=rf"the Kafka door lags .*{topic}\[0\] by 4"):
        await pass_barrier(parts)
    with services(tmp_path, parts.env, "ingest"):
        group = parts.kafka.names.group("ingest", "door")
        await eventually(lambda: committed(parts, group), lambda found: found.get((topic, 0)) == 4)
    with pytest.raises(Retryable, match="the aggregator lags"):  # the door is passed
        await pass_barrier(parts)
    assert [one.id for one in await events(parts)] == ["kept"]


async def test_a_raw_topic_that_is_gone_stops_the_close_and_is_made_again_by_topics_apply(parts: Parts) -> None:
    await apply(parts, with_own_topics("acme-app"))
    settings = TopicsSettings.model_validate(parts.kafka.model_dump() | {"KHATA_DEV": True})
    states = {state.name: state.outcome for state in await _apply(settings, dry_run=True)}
    assert states[raw(parts, "acme-app")] == states[raw(parts, "acme-app") + ".dlq"] == "exists"
    assert raw(parts, "zenith-app") not in states

    await _delete(parts, raw(parts, "acme-app"))
    with pytest.raises(Retryable, match="not in Kafka: .*usage.raw.acme-app.v1"):
        await pass_barrier(parts)
    states = {state.name: state.outcome for state in await _apply(settings, dry_run=False)}
    assert states[raw(parts, "acme-app")] == "created"
    await pass_barrier(parts, 5)


async def _delete(parts: Parts, topic: str) -> None:
    async with admin(parts) as client:
        await client.delete_topics([topic])

    async def gone() -> bool:
        return topic not in await topics.present(parts.kafka)

    await eventually(gone)


async def test_a_raw_topic_is_never_taken_back(parts: Parts) -> None:
    await apply(parts, with_own_topics("acme-app"))
    with pytest.raises(Usage, match="raw_topic cannot be taken back"):
        await apply(parts, DOCUMENT)


async def test_a_file_that_does_not_hold_makes_no_topic(parts: Parts) -> None:
    wrong = with_own_topics("acme-app")
    wrong = wrong | {"projects": [{"id": "acme-app", "organisation": "nobody", "raw_topic": True}]}
    with pytest.raises(Usage, match="no organisation nobody"):
        await apply(parts, wrong)
    assert raw(parts, "acme-app") not in await topics.present(parts.kafka)
