"""Every form in which an event may come over HTTP, and what is sent of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from services.ingest import http
from services.ingest.http import body as bodies
from services.ingest.http.body import Room
from services.ingest.http.limit import Allowance
from services.ingest.validate import Sender
from shared.domain.errors import BrokerAway, Rejected
from tests.support.ingest import MANY, ONE, HttpDoor, Taken, event, http_door, small_catalogue
from tests.support.usage import NOWHERE

BINARY = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "test", "ce-type": "api.request", "ce-subject": "alice"}


# ---- structured


@pytest.mark.parametrize("media_type", [ONE, "application/json", "APPLICATION/JSON; charset=utf-8", f"{ONE};x=y"])
async def test_one_event_comes_as_a_cloudevent_or_plain_json(door: HttpDoor, taken: Taken, media_type: str) -> None:
    answer = await door.post(event("1", 1.5), media_type=media_type)
    assert answer.status_code == 202, answer.text
    assert answer.json() == {"accepted": 1, "rejected": 0, "errors": [], "times": {}}
    [sent] = taken.events
    assert (sent.id, sent.project, sent.live, bytes(sent.data)) == ("1", "acme-app", True, b'{"tokens": 1.5}')


@pytest.mark.parametrize("media_type", [MANY, "application/json"])
async def test_a_batch_tells_what_became_of_each_event_by_its_index(
    door: HttpDoor, taken: Taken, media_type: str
) -> None:
    batch = [event("0"), event("1", "many"), event("2", time=None), event("1"), event("")]
    answer = await door.post(batch, media_type=media_type)
    assert answer.status_code == 202
    told = answer.json()
    assert (told["accepted"], told["rejected"]) == (3, 2)
    assert [(error["index"], error["code"]) for error in told["errors"]] == [(1, "bad_value"), (4, "invalid_event")]
    assert list(told["times"]) == ["2"]
    assert [sent.id for sent in taken.events] == ["0", "2", "1"]


async def test_a_thousand_events_pass_and_their_order_is_kept(door: HttpDoor, taken: Taken) -> None:
    answer = await door.post([event(str(n)) for n in range(1000)])
    assert answer.json()["accepted"] == 1000
    assert [sent.id for sent in taken.events] == [str(n) for n in range(1000)]


async def test_a_test_key_makes_test_events_and_the_mode_must_not_contradict_it(door: HttpDoor, taken: Taken) -> None:
    assert (await door.post(event("1"), key="trial")).status_code == 202
    assert (await door.post(event("2", mode="test"), key="trial")).status_code == 202
    assert [sent.live for sent in taken.events] == [False, False]
    # Who says "test" with a live key must not be billed by mistake.
    answer = await door.post(event("3", mode="test"))
    assert (answer.status_code, answer.json()["code"]) == (422, "wrong_mode")


async def test_types_without_a_meter_are_taken_where_the_project_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Taken()
    async with http_door(NOWHERE, *small_catalogue(unknown_types=True), sender=taken) as door:
        monkeypatch.setattr(door.door.cache, "refresh", None)  # nobody waits for a meter that may never come
        assert (await door.post(event("1", type="video.encoded", data={"any": [1]}))).status_code == 202
        assert (await door.post(event("2"))).status_code == 202
        refused = await door.post(event("3", "many"))  # a type with a meter is checked as ever
    assert [(sent.id, sent.unmetered) for sent in taken.events] == [("1", True), ("2", False)]
    assert refused.json()["code"] == "bad_value"


# ---- binary mode


async def test_in_binary_mode_attributes_are_headers_and_the_body_is_the_data(door: HttpDoor, taken: Taken) -> None:
    headers = BINARY | {"CE-Subject": "alice", "ce-time": event()["time"], "ce-comexampleextra": "ignored"}
    del headers["ce-subject"]
    answer = await door.post(b' {"tokens": 2.50} ', media_type="application/json", headers=headers)
    assert answer.status_code == 202, answer.text
    assert answer.json()["times"] == {}
    [sent] = taken.events
    assert (sent.id, sent.subject, json.loads(bytes(sent.data))) == ("1", "alice", {"tokens": 2.5})
    assert b"2.50" in bytes(sent.data)


@pytest.mark.parametrize(
    ("header", "subject"),
    [
        ("Zo%C3%AB", "Zoë"),
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),  # the binding's own example
        ("100%25", "100%"),
        ("%2525", "%25"),  # decoded once, never twice
        ("%c3%ab", "ë"),
        ("50% off", "50% off"),  # a percent sign that starts no escape stands for itself
        ('"in quotes"', "in quotes"),
        ('"a \\"b\\""', 'a "b"'),
        ('open "', 'open "'),
        ("with space", "with space"),
    ],
)
async def test_header_values_are_percent_decoded_once(door: HttpDoor, taken: Taken, header: str, subject: str) -> None:
    answer = await door.post(b'{"tokens": 1}', media_type="application/json", headers=BINARY | {"ce-subject": header})
    assert answer.status_code == 202, answer.text
    assert taken.events[0].subject == subject


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"ce-subject": "%FF"}, "not UTF-8"),
        ({"ce-subject": "%ED%A0%80"}, "not UTF-8"),  # a surrogate
        ({"ce-subject": "%00"}, "control characters"),
        ({"ce-subject": "a%0Ab"}, "control characters"),
        ({"ce-subject": "Zoë".encode()}, "percent-encoded"),
        ({"ce-subject": "x" * 30_000}, "too long"),
        ({"ce-subject": "x" * 9_000}, "longer than"),
        ({"ce-id": ""}, "id is missing"),
        ({"ce-specversion": "0.3"}, "specversion"),
    ],
)
async def test_a_wrong_header_is_an_invalid_event(door: HttpDoor, headers: dict[str, Any], says: str) -> None:
    answer = await door.post(b'{"tokens": 1}', media_type="application/json", headers=BINARY | headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_event")
    assert says in answer.json()["detail"]


async def test_an_attribute_that_is_there_twice_is_refused(door: HttpDoor) -> None:
    headers = [*BINARY.items(), ("ce-id", "2"), ("Authorization", f"Bearer {door.keys['first']}")]
    headers.append(("Content-Type", "application/json"))
    answer = await door.client.post("/v1/events", content=b'{"tokens":1}', headers=headers)
    assert answer.json()["code"] == "invalid_event"
    assert "twice" in answer.json()["detail"]


async def test_only_json_is_data_and_a_structured_type_is_never_binary_mode(door: HttpDoor, taken: Taken) -> None:
    answer = await door.post(b"tokens=1", media_type="text/plain", headers=BINARY)
    assert (answer.status_code, answer.json()["code"]) == (422, "unsupported_data")
    answer = await door.post(b"{", media_type="application/json", headers=BINARY)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
    assert (await door.post(event("inside"), media_type=ONE, headers=BINARY)).status_code == 202
    assert (await door.post(b'{"tokens":1}', media_type="application/vnd.acme+json", headers=BINARY)).status_code == 202
    assert [sent.id for sent in taken.events] == ["inside", "1"]


async def test_binary_mode_without_a_body_has_no_data(door: HttpDoor) -> None:
    answer = await door.post(b"", media_type="application/json", headers=BINARY)
    assert answer.json()["code"] == "bad_value"  # this meter needs a number
    answer = await door.post(b"9" * 300_000, media_type="application/json", headers=BINARY)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


# ---- asking only


async def test_asking_only_tells_what_would_become_of_the_events_and_sends_nothing(
    door: HttpDoor, taken: Taken
) -> None:
    headers = {"Authorization": f"Bearer {door.keys['first']}", "Content-Type": MANY}
    for content, counts in (
        ([event("1", time=None), event("2", "x")], (1, 1)),
        ([event("1", "x")], (0, 1)),
    ):
        answer = await door.client.post("/v1/events?validate_only=true", json=content, headers=headers)
        assert answer.status_code == 200
        told = answer.json()
        assert (told["validate_only"], told["accepted"], told["rejected"]) == (True, *counts)
    assert taken.events == []
    answer = await door.client.post(
        "/v1/events?validate_only=true", content=b"{", headers=headers | {"Content-Type": ONE}
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
    answer = await door.client.post("/v1/events?validate_only=false", json=[event("1")], headers=headers)
    assert answer.status_code == 202


@pytest.mark.parametrize(
    "query",
    ["validate_onyl=true", "validate_only=yes", "validate_only", "validate_only=true&validate_only=false", "x="],
)
async def test_who_misspells_the_question_sends_nothing(door: HttpDoor, taken: Taken, query: str) -> None:
    headers = {"Authorization": f"Bearer {door.keys['first']}", "Content-Type": ONE}
    answer = await door.client.post(f"/v1/events?{query}", json=event("1"), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameter")
    assert taken.events == []


# ---- answers


@pytest.mark.parametrize("given", ["abc-123", "x" * 128, "~!"])
async def test_the_callers_request_id_is_echoed_on_every_answer(door: HttpDoor, given: str) -> None:
    for answer in (
        await door.post(event("1"), headers={"X-Request-Id": given}),
        await door.post(b"{", headers={"X-Request-Id": given}),
        await door.client.get("/v1/events", headers={"X-Request-Id": given}),
        await door.client.get("/nowhere", headers={"X-Request-Id": given}),
    ):
        assert answer.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "with space", "é".encode(), "tab\there"])
async def test_a_request_id_that_cannot_be_echoed_becomes_a_new_one(door: HttpDoor, given: Any) -> None:
    answer = await door.post(event("1"), headers={"X-Request-Id": given})
    assert answer.status_code == 202
    assert len(answer.headers["x-request-id"]) == 32


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_methods_are_not_allowed(door: HttpDoor, method: str) -> None:
    answer = await door.client.request(method, "/v1/events")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.headers["content-type"] == "application/problem+json"


class Broken:
    def __init__(self, error: Exception) -> None:
        self.error = error

    async def send(self, *_: Any) -> list[tuple[int, int]]:
        raise self.error


async def test_a_fault_of_ours_is_a_problem_that_tells_nothing_of_it() -> None:
    async with http_door(NOWHERE, *small_catalogue(), sender=Broken(ZeroDivisionError("secret"))) as door:
        answer = await door.post(event("1"), headers={"X-Request-Id": "mine"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert answer.headers["x-request-id"] == "mine"
    assert "secret" not in answer.text


async def test_when_nothing_is_acked_nothing_is_claimed() -> None:
    async with http_door(NOWHERE, *small_catalogue(), sender=Broken(BrokerAway("away"))) as door:
        answer = await door.post([event("1"), event("2", "x")])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert "accepted" not in answer.json()


class Limited:
    """Lets calls of `at_most` pass while `open`."""

    def __init__(self, at_most: int = 10, wait_s: float | None = None) -> None:
        self.at_most, self.wait_s, self.taken = at_most, wait_s, 0

    def take(self, sender: Sender, events: int) -> Allowance:
        if events > self.at_most:
            raise Rejected("over_burst", "too many at once")
        self.taken += events
        return Allowance(self.wait_s, lambda: {"ratelimit-remaining": "7"})

    def look(self, sender: Sender) -> Allowance:
        return Allowance(None, lambda: {"ratelimit-remaining": "8"})


async def test_a_limited_key_waits_as_a_whole_and_is_told_how_long() -> None:
    taken = Taken()
    async with http_door(NOWHERE, *small_catalogue(), sender=taken, limits=Limited(wait_s=1.2)) as door:
        answer = await door.post([event("1"), event("2")])
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert (answer.headers["retry-after"], answer.headers["ratelimit-remaining"]) == ("2", "7")
    assert taken.events == []


async def test_the_headers_of_the_limit_are_on_every_answer_to_the_key_and_asking_takes_nothing() -> None:
    limits = Limited(at_most=2)
    async with http_door(NOWHERE, *small_catalogue(), sender=Taken(), limits=limits) as door:
        good = await door.post([event("1"), event("2")])
        wrong = await door.post(b"[", media_type=MANY)
        large = await door.post([event(str(n)) for n in range(3)])
        headers = {"Authorization": f"Bearer {door.keys['first']}", "Content-Type": ONE}
        asked = await door.client.post("/v1/events?validate_only=true", json=event("1"), headers=headers)
    assert [answer.status_code for answer in (good, wrong, large, asked)] == [202, 400, 422, 200]
    assert large.json()["code"] == "over_burst"
    assert [answer.headers["ratelimit-remaining"] for answer in (good, wrong, large, asked)] == ["7", "8", "8", "8"]
    assert limits.taken == 2


async def test_no_more_bodies_are_held_than_there_is_room_for(door: HttpDoor) -> None:
    room = Room(1000)
    with room.enter() as first:
        first.take(900)
        with pytest.raises(Exception, match="no room"), room.enter() as second:
            second.take(101)
        assert room.left == 100
    assert room.left == 1000
    object.__setattr__(door.door, "room", Room(100))
    answer = await door.post([event("1"), event("2")])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert door.door.room.left == 100  # given back


async def test_a_body_that_does_not_come_is_not_waited_for(door: HttpDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_DEADLINE_S", 0.05)
    answer = await _never_ending(door)
    assert (answer["status"], b"too_slow" in answer["body"]) == (408, True)


async def _never_ending(door: HttpDoor) -> dict[str, Any]:
    """Speaks ASGI: a body of which only the beginning comes."""
    pieces = [{"type": "http.request", "body": b"[", "more_body": True}]
    answer: dict[str, Any] = {}

    async def receive() -> Any:
        if pieces:
            return pieces.pop()
        return await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        answer.update(message)

    headers = [(b"authorization", f"Bearer {door.keys['first']}".encode()), (b"content-type", MANY.encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/events", "query_string": b"", "headers": headers}
    await http.app(door.door)(scope | {"http_version": "1.1", "app": None}, receive, send)
    return answer


async def test_the_contract_is_served_and_its_page_needs_nothing_from_elsewhere(door: HttpDoor) -> None:
    document = await door.client.get("/openapi.json")
    assert document.json()["openapi"] == "3.1.0"
    page = await door.client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for forbidden in ("<script", "<link", "<img", "url(", "@import", "src="):
        assert forbidden not in page.text
    assert "kh_live_..." in page.text
