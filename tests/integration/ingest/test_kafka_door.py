"""The Kafka door: raw records become events once, whatever their producer did."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from services.ingest.kafka_door import KafkaDoor
from shared.catalogue.cache import CatalogueCache
from shared.contracts.messages.event import StampedEvent, decode_event
from shared.contracts.topics import USAGE_EVENTS, USAGE_RAW
from shared.kafka.consumer import ConsumerLoop, Limits
from shared.kafka.producer import Producer
from shared.postgres.outbox import OutboxMessage
from tests.conftest import Parts
from tests.support.catalogue import apply_document
from tests.support.ingest import event, settings
from tests.support.kafka import committed, read_topic
from tests.support.waiting import eventually


@asynccontextmanager
async def door(parts: Parts) -> AsyncIterator[CatalogueCache]:
    """The door as `services/ingest/app.py` wires it, in this process."""
    cache, producer, stop = CatalogueCache(), Producer(parts.kafka, "door"), asyncio.Event()
    loop = ConsumerLoop(
        parts.kafka,
        group=_group(parts),
        instance="one",
        topics=[_raw(parts)],
        handler=KafkaDoor(settings(parts.kafka), cache, producer, producer, "ingest-test", _group(parts)),
        limits=Limits(wait_ms=50),
        isolation="read_committed",
        commit_positions=True,
    )
    following = asyncio.create_task(cache.follow(parts.kafka, stop))
    await asyncio.wait_for(cache.at_end.wait(), 10)
    reading = asyncio.create_task(loop.run(stop))
    try:
        yield cache
    finally:
        stop.set()
        await asyncio.gather(reading, following)
        await producer.stop()


def _group(parts: Parts) -> str:
    return parts.kafka.names.group("ingest", "door")


def _raw(parts: Parts) -> str:
    return parts.kafka.names.topic(USAGE_RAW)


async def _events(parts: Parts) -> list[StampedEvent]:
    return [
        decode_event(record.value or b"") for record in await read_topic(parts, parts.kafka.names.topic(USAGE_EVENTS))
    ]


async def _send(parts: Parts, *messages: tuple[Any, tuple[tuple[str, bytes], ...]]) -> None:
    producer = Producer(parts.kafka, "test")
    whole = [
        OutboxMessage(_raw(parts), b"k", body if isinstance(body, bytes | None) else json.dumps(body).encode(), headers)
        for body, headers in messages
    ]
    await producer.send(whole)
    await producer.stop()


def raw(id: str, **more: Any) -> dict[str, Any]:
    return event(id, **({"project": "acme-app"} | more))


async def test_structured_events_are_taken_and_wrong_ones_are_dead_letters_with_a_code(parts: Parts) -> None:
    await apply_document(parts)
    wrong: list[tuple[Any, tuple[tuple[str, bytes], ...], str]] = [
        (b"{", (), "malformed"),
        (None, (), "malformed"),
        (b"\xff\xfe", (), "malformed"),
        (json.dumps(raw("w0")).encode()[:-1] + b',"data":{"tokens":1e99999999999999999999}}', (), "malformed"),
        (raw("w1", project="nowhere"), (), "unknown_project"),
        (raw("w2", project=None), (), "unknown_project"),
        (raw("w3", mode="dry"), (), "invalid_event"),
        (raw("w4", tokens="many"), (), "bad_value"),
        (raw("w5", type="other"), (), "unknown_event_type"),
        (raw("w6", data={"tokens": 1, "pad": "x" * 300_000}), (), "too_large"),
        (b"x" * 999_900, (), "too_large"),
        (raw("w7", time=(datetime.now(UTC) - timedelta(days=500)).isoformat()), (), "too_late"),
        (raw("w8"), (("content-type", b"application/avro"),), "unsupported_media_type"),
        (raw("w9", subject="a\x00b"), (("dlq.timestamp", b"nonsense"), ("dlq.attempt", b"\xff")), "invalid_event"),
    ]
    async with door(parts):
        await _send(parts, *((body, headers) for body, headers, _ in wrong))
        await _send(
            parts,
            (raw("1", tokens=1.5), ()),
            (raw("2", mode="test"), (("content-type", b"application/cloudevents+json; charset=utf-8"),)),
            (raw("3"), (("dlq.timestamp", b"not a number"),)),
        )
        found = await eventually(lambda: _events(parts), lambda events: len(events) >= 3)
        letters = await eventually(
            lambda: read_topic(parts, _raw(parts) + ".dlq"), lambda some: len(some) >= len(wrong)
        )
    assert sorted((one.id, one.live, one.project, one.keyid) for one in found) == [
        ("1", True, "acme-app", ""),
        ("2", False, "acme-app", ""),
        ("3", True, "acme-app", ""),
    ]
    by_offset = {int(dict(one.headers)["dlq.offset"]): one for one in letters}
    for offset, (body, _, code) in enumerate(wrong):
        letter = by_offset[offset]
        sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        assert letter.value == sent
        assert (offset, dict(letter.headers)["dlq.error_code"].decode()) == (offset, code)


async def test_a_missing_time_is_the_records_own_so_that_reading_it_again_makes_the_same_event(parts: Parts) -> None:
    await apply_document(parts)
    earlier = int((datetime.now(UTC) - timedelta(days=2)).timestamp() * 1000)
    await _send(parts, (raw("1", time=None), ()), (raw("2", time=None), (("dlq.timestamp", b"%d" % earlier),)))
    async with door(parts):
        first = await eventually(lambda: _events(parts), lambda events: len(events) >= 2)
    records = await read_topic(parts, _raw(parts))
    assert [round(one.time.timestamp() * 1000) for one in first] == [records[0].timestamp_ms, earlier]
    cache = CatalogueCache()
    stop = asyncio.Event()
    following = asyncio.create_task(cache.follow(parts.kafka, stop))
    await cache.at_end.wait()
    again_producer = Producer(parts.kafka, "again")
    again = KafkaDoor(settings(parts.kafka), cache, again_producer, again_producer, "ingest-test", "again")
    refresh = cache.refresh_once()
    assert [await again._check(record, refresh) for record in records] == first
    stop.set()
    await following


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_aborted_transactions_are_never_counted_and_markers_do_not_hold_the_position(parts: Parts) -> None:
    await apply_document(parts)
    producer = AIOKafkaProducer(bootstrap_servers=parts.bootstrap, transactional_id=f"{parts.prefix}tx")
    await producer.start()

    async def one(id: str) -> None:
        await producer.send_and_wait(_raw(parts), json.dumps(raw(id)).encode(), partition=0)

    async with door(parts):
        async with producer.transaction():
            await one("kept-1")
        await producer.begin_transaction()
        await one("aborted")
        await producer.abort_transaction()
        async with producer.transaction():
            await one("kept-2")
        await producer.begin_transaction()
        await one("aborted-last")
        await producer.abort_transaction()
        # 4 records and 4 markers: the position must reach the very end, behind the last abort marker.
        await eventually(lambda: committed(parts, _group(parts)), lambda found: found.get((_raw(parts), 0)) == 8)
        assert sorted(event.id for event in await _events(parts)) == ["kept-1", "kept-2"]
    await producer.stop()


async def test_after_a_restart_it_goes_on_where_it_was(parts: Parts) -> None:
    await apply_document(parts)
    async with door(parts):
        await _send(parts, (raw("1"), ()))
        await eventually(lambda: _committed_end(parts), lambda end: end == 1)
    await _send(parts, (raw("2"), ()))
    async with door(parts):
        await eventually(lambda: _committed_end(parts), lambda end: end == 2)
    assert sorted(event.id for event in await _events(parts)) == ["1", "2"]


async def _committed_end(parts: Parts) -> int:
    return sum(max(0, offset) for offset in (await committed(parts, _group(parts))).values())
