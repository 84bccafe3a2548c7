"""What the HTTP door answers to everything that is wrong. Kafka is away: nothing here may reach it but where said."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from services.ingest.http import MAX_BODY_BYTES
from shared.catalogue.cache import CatalogueCache
from tests.support.ingest import MANY, ONE, HttpDoor, event, http_door, small_catalogue
from tests.support.usage import NOWHERE


@pytest.fixture
async def door() -> AsyncIterator[HttpDoor]:
    async with http_door(NOWHERE, *small_catalogue(), INGEST_ACK_DEADLINE_S=0.5) as made:
        yield made


def _is_problem(answer: httpx2.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["code"], body["type"]) == (status, code, f"urn:khata:problem:{code}")
    assert body["title"]
    assert body["detail"]


@pytest.mark.parametrize("key", [None, "unknown", "revoked", "expired", "lost_pepper", "", "kh_live_short", "é"])
async def test_without_a_valid_key_nothing_is_read(door: HttpDoor, key: str | None) -> None:
    headers = {"Authorization": "Bearer é".encode()} if key == "é" else None
    answer = await door.post(b"never looked at", key=None if key == "é" else key, headers=headers)
    _is_problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_typo_is_told_apart_from_an_unknown_key_without_a_look_up(
    door: HttpDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def refresh() -> None:
        asked.append(1)

    monkeypatch.setattr(door.door.cache, "refresh", refresh)
    good = door.keys["first"]
    typo = good[:-1] + ("a" if good[-1] != "a" else "b")
    _is_problem(await door.post(event(), key=typo), 401, "unauthenticated")
    assert asked == []
    _is_problem(await door.post(event(), key="unknown"), 401, "unauthenticated")
    assert asked == [1]


@pytest.mark.parametrize("scheme", ["Basic abc", "kh_live_x", "Bearer"])
async def test_other_schemes_are_refused(door: HttpDoor, scheme: str) -> None:
    _is_problem(await door.post(event(), key=None, headers={"Authorization": scheme}), 401, "unauthenticated")


async def test_a_key_without_the_scope_is_forbidden(door: HttpDoor) -> None:
    _is_problem(await door.post(event(), key="reader"), 403, "forbidden")


async def test_a_key_acts_only_for_its_project(door: HttpDoor) -> None:
    _is_problem(await door.post(event(project="zenith-app")), 403, "wrong_project")


DEEP = b'{"a":' * 30_000 + b"1" + b"}" * 30_000


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b"", ONE),
        (b"{", ONE),
        (b"not json", ONE),
        (b"\xff\xfe{}", ONE),
        (b"[", MANY),
        (b"[]", MANY),
        (b" [ ] ", "application/json"),
        (b"{}", MANY),
        (b'[{"id": NaN}]', MANY),
        (b'{"id": "\\ud800"}', ONE),
        (b'{"data": {"tokens": Infinity}}', ONE),
        (b"[" * 100_000 + b"]" * 100_000, MANY),
        (b'{"id":"1","data":' + DEEP + b"}", ONE),
        (json.dumps(event()).encode() + b"{}", ONE),
        (json.dumps(event(data=None)).encode()[:-1] + b', "data": ' + b"9" * 5000 + b"}", ONE),
        (json.dumps(event(data=None)).encode()[:-1] + b', "data": {"tokens": 1e99999999999999999999}}', ONE),
        (
            json.dumps(event(data=None)).encode()[:-1]
            + b', "data": {"tokens": 1, "a": '
            + b"[" * 65
            + b"]" * 65
            + b"}}",
            ONE,
        ),
    ],
)
async def test_what_is_not_json_is_malformed(door: HttpDoor, body: bytes, media_type: str) -> None:
    _is_problem(await door.post(body, media_type=media_type), 400, "malformed")


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"id": None}, "invalid_event"),
        ({"id": ""}, "invalid_event"),
        ({"id": 5}, "invalid_event"),
        ({"id": "x" * 257}, "invalid_event"),
        ({"id": "a\x00b"}, "invalid_event"),
        ({"source": None}, "invalid_event"),
        ({"subject": None}, "invalid_event"),
        ({"subject": "line\nbreak"}, "invalid_event"),
        ({"subject": "\x7f"}, "invalid_event"),
        ({"type": None}, "invalid_event"),
        ({"type": ["api.request"]}, "invalid_event"),
        ({"specversion": None}, "invalid_event"),
        ({"specversion": "0.3"}, "invalid_event"),
        ({"type": "api.unheard-of"}, "unknown_event_type"),
        ({"data": None}, "bad_value"),
        ({"data": {"tokens": "many"}}, "bad_value"),
        ({"data": {"tokens": True}}, "bad_value"),
        ({"data": {"tokens": "1e9999999"}}, "bad_value"),
        ({"data": {"tokens": 10**20}}, "bad_value"),
        ({"data": {"tokens": 10**300}}, "bad_value"),
        ({"data": [1]}, "bad_value"),
        ({"data": None, "data_base64": "eyJ0b2tlbnMiOjF9"}, "unsupported_data"),
        ({"datacontenttype": "text/plain"}, "unsupported_data"),
        ({"time": "2026-10-01T12:00:00"}, "invalid_time"),
        ({"time": "yesterday"}, "invalid_time"),
        ({"time": "0001-01-01T00:00:00+14:00"}, "invalid_time"),
        ({"time": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}, "in_the_future"),
        ({"time": (datetime.now(UTC) - timedelta(days=401)).isoformat()}, "too_late"),
        ({"time": 1234567890}, "invalid_event"),
    ],
)
async def test_an_event_that_cannot_be_counted_is_refused_with_its_reason(
    door: HttpDoor, wrong: dict[str, Any], code: str
) -> None:
    answer = await door.post(event(**wrong))
    _is_problem(answer, 422, code)
    assert answer.json()["errors"] == [{"index": 0, "code": code, "message": answer.json()["detail"]}]


async def test_a_batch_of_wrong_events_only_names_each(door: HttpDoor) -> None:
    answer = await door.post([event("1", "x"), event("", 1)])
    _is_problem(answer, 422, "all_rejected")
    assert [(error["index"], error["code"]) for error in answer.json()["errors"]] == [
        (0, "bad_value"),
        (1, "invalid_event"),
    ]


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/xml", "application/cloudevents+avro", "multipart/form-data"]
)
async def test_other_media_types_are_refused(door: HttpDoor, media_type: str) -> None:
    _is_problem(await door.post(b"{}", media_type=media_type), 415, "unsupported_media_type")


async def test_a_body_over_the_cap_is_refused_before_it_is_read(door: HttpDoor) -> None:
    _is_problem(await door.post(b" " * (MAX_BODY_BYTES + 1)), 413, "too_large")

    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while read < 3 * MAX_BODY_BYTES:
            read += 1 << 20
            yield b" " * (1 << 20)

    headers = {"Authorization": f"Bearer {door.keys['first']}", "Content-Type": ONE}
    answer = await door.client.post("/v1/events", content=endless(), headers=headers)
    assert "content-length" not in answer.request.headers
    _is_problem(answer, 413, "too_large")
    assert read <= MAX_BODY_BYTES + (2 << 20)  # it hung up long before the end


@pytest.mark.parametrize("length", ["-1", "abc", "²", "1e3", ""])
async def test_a_nonsense_content_length_is_no_crash(door: HttpDoor, length: str) -> None:
    answer = await door.post(b"{}", headers={"Content-Length": length.encode()})
    assert answer.status_code == 422


async def test_more_than_a_thousand_events_are_refused(door: HttpDoor) -> None:
    _is_problem(await door.post([event(str(n)) for n in range(1001)]), 413, "too_many_events")


async def test_one_event_over_its_cap_is_refused(door: HttpDoor) -> None:
    answer = await door.post(event(data={"tokens": 1, "pad": "x" * 300_000}))
    _is_problem(answer, 413, "too_large")


async def test_without_kafka_it_says_try_again_and_claims_nothing(door: HttpDoor) -> None:
    answer = await door.post([event("1"), event("2", "x")])
    _is_problem(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "2"
    assert "accepted" not in answer.json()


async def test_before_the_catalogue_is_read_nobody_is_told_that_a_key_is_wrong() -> None:
    async with http_door(NOWHERE, CatalogueCache(), small_catalogue()[1]) as door:
        _is_problem(await door.post(event()), 503, "unavailable")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/events", 405), ("POST", "/v2/events", 404)])
async def test_other_paths_and_methods_are_problems_too(door: HttpDoor, method: str, path: str, status: int) -> None:
    answer = await door.client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert (answer.headers.get("allow") == "POST") == (status == 405)


async def test_no_secret_and_no_payload_reaches_the_log(
    door: HttpDoor, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    for key in ("first", "unknown", "revoked"):
        await door.post(event("canary-id", tokens="canary-value", subject="canary-subject"), key=key)
        await door.post(event("canary-id", subject="canary-subject"), key=key)
    told = caplog.text + "".join(capsys.readouterr())
    assert "unavailable" in told  # the log was looked at
    assert "canary" not in told
    assert not any(secret in told for secret in door.keys.values())
