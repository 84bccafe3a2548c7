"""The forms a record may have at the Kafka door; the broker is not needed for them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.ingest.door_keeper import instance_of
from services.ingest.kafka_door import KafkaDoor
from shared.contracts.messages.event import StampedEvent
from shared.contracts.topics import USAGE_EVENTS, USAGE_RAW, Names, dead_letter, project_raw
from shared.domain.errors import Rejected
from shared.kafka.records import Record
from tests.support.ingest import Taken, event, settings, small_catalogue
from tests.support.usage import NOWHERE

BINARY = {
    "ce_specversion": b"1.0",
    "ce_id": b"1",
    "ce_source": b"s",
    "ce_type": b"api.request",
    "ce_subject": "Zoë".encode(),
    "ce_project": b"acme-app",
}


async def check(
    value: bytes | None,
    headers: dict[str, bytes | None] | None = None,
    *,
    topic: str = USAGE_RAW.name,
    unknown_types: bool = False,
    doubled: tuple[tuple[str, bytes], ...] = (),
    taken_at: datetime | None = None,
) -> StampedEvent:
    taken_ms = int((taken_at or datetime.now(UTC)).timestamp() * 1000)
    cache, _ = small_catalogue(unknown_types=unknown_types)
    door = KafkaDoor(settings(NOWHERE), cache, Taken(), None, "test", "g")  # type: ignore[arg-type]
    pairs = tuple((name, text) for name, text in (headers or {}).items() if text is not None)
    return await door._check(Record(topic, 0, 0, taken_ms, b"k", value, pairs + doubled), cache.refresh_once())


async def code(*arguments: Any, **more: Any) -> str:
    with pytest.raises(Rejected) as refused:
        await check(*arguments, **more)
    return refused.value.code


async def test_binary_mode_has_its_attributes_in_headers_as_utf_8() -> None:
    taken_at = datetime(2026, 10, 1, 12, tzinfo=UTC)
    headers = BINARY | {"content-type": b"application/json", "other": b"\xff"}
    made = await check(b'{"tokens": 1.50}', headers, taken_at=taken_at)
    assert (made.id, made.subject, made.live, bytes(made.data)) == ("1", "Zoë", True, b'{"tokens": 1.50}')
    assert made.time == taken_at
    made = await check(b'{"tokens": 1}', BINARY | {"ce_mode": b"test", "ce_subject": b"50%25"})
    assert (made.live, made.subject) == (False, "50%25")  # nothing is percent-decoded on Kafka


@pytest.mark.parametrize(
    ("value", "headers", "expected"),
    [
        (None, {}, "malformed"),  # a tombstone is no data
        (b"", {}, "malformed"),
        (b"{", {}, "malformed"),
        (b'{"tokens":1}', {"content-type": b"text/plain"}, "unsupported_data"),
        (b'{"tokens":1}', {"content-type": b"\xff\xfe"}, "unsupported_data"),
        (b'{"tokens":1}', {"ce_id": None}, "invalid_event"),
        (b'{"tokens":1}', {"ce_id": b"\xff"}, "invalid_event"),
        (b'{"tokens":1}', {"ce_id": b"a\x00b"}, "invalid_event"),
        (b'{"tokens":1}', {"ce_id": b"x" * 10_000}, "invalid_event"),
        (b'{"tokens":1}', {"ce_specversion": b"0.3"}, "invalid_event"),
        (b'{"tokens":1}', {"ce_mode": b"dry"}, "invalid_event"),
        (b'{"tokens":1}', {"ce_project": b"nowhere"}, "unknown_project"),
        (b'{"tokens":1}', {"ce_project": None}, "unknown_project"),
        (b'{"tokens":1}', {"ce_time": b"now"}, "invalid_time"),
        (b'{"tokens":1}', {"ce_type": b"other"}, "unknown_event_type"),
        (b'{"tokens":"x"}', {}, "bad_value"),
        (b'"' + b"x" * 300_000 + b'"', {}, "too_large"),
    ],
)
async def test_a_binary_record_that_cannot_be_counted_has_its_code(
    value: bytes | None, headers: dict[str, bytes | None], expected: str
) -> None:
    assert await code(value, BINARY | headers) == expected


async def test_a_doubled_attribute_is_refused() -> None:
    assert await code(b'{"tokens":1}', BINARY, doubled=(("ce_id", b"2"),)) == "invalid_event"


async def test_a_structured_content_type_wins_over_ce_headers() -> None:
    body = json.dumps(event("inside", project="acme-app")).encode()
    made = await check(body, BINARY | {"content-type": b"application/cloudevents+json; charset=UTF-8"})
    assert made.id == "inside"
    avro = BINARY | {"content-type": b"application/cloudevents+avro"}
    assert await code(body, avro) == "unsupported_media_type"
    assert await code(body, {"content-type": b"text/csv"}) == "unsupported_media_type"


async def test_a_projects_own_topic_fixes_the_project() -> None:
    own = project_raw("acme-app").name
    assert (await check(json.dumps(event("1")).encode(), topic=own)).project == "acme-app"
    same = json.dumps(event("1", project="acme-app")).encode()
    assert (await check(same, topic=own)).project == "acme-app"
    assert await code(json.dumps(event("1", project="zenith-app")).encode(), topic=own) == "wrong_project"
    assert await code(same, topic=project_raw("nowhere").name) == "unknown_project"


async def test_a_project_that_allows_it_sends_types_without_a_meter() -> None:
    body = json.dumps(event("1", type="video.encoded", project="acme-app")).encode()
    assert await code(body) == "unknown_event_type"
    assert (await check(body, unknown_types=True)).unmetered


def test_names_of_raw_topics_are_read_back() -> None:
    names = Names("test.")
    for project in ("a", "v1", "a-b_c", "raw", "usage"):
        assert names.raw_project(names.topic(project_raw(project))) == project
    for other in (USAGE_RAW, USAGE_EVENTS, dead_letter(USAGE_RAW)):
        assert names.raw_project(names.topic(other)) is None
    assert len({project_raw(project).name for project in ("a", "v1")} | {USAGE_RAW.name}) == 3


def test_another_list_of_topics_is_another_member_and_the_common_one_keeps_its_name() -> None:
    assert instance_of("pod-0", ("usage.raw.v1",)) == "pod-0"
    first, second = instance_of("pod-0", ("usage.raw.v1", "a")), instance_of("pod-0", ("usage.raw.v1", "a", "b"))
    assert first.startswith("pod-0-")
    assert len({first, second, "pod-0"}) == 3


@pytest.mark.parametrize(
    ("told", "stamped"), [(timedelta(days=5), 0), (timedelta(days=-3), -3), (timedelta(days=-300), -30)]
)
async def test_a_redrives_own_time_is_believed_for_a_month_back_and_never_ahead(told: timedelta, stamped: int) -> None:
    taken_at = datetime(2026, 10, 1, 12, tzinfo=UTC)
    at = str(int((taken_at + told).timestamp() * 1000)).encode()
    made = await check(b'{"tokens": 1}', BINARY | {"dlq.timestamp": at}, taken_at=taken_at)
    assert made.time == taken_at + timedelta(days=stamped)
