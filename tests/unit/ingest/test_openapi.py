"""The contract says what the server does: every status and every example is sent for and compared."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import httpx2
import jsonschema
import pytest

from services.ingest.http import body as bodies
from services.ingest.openapi import document
from services.ingest.openapi_examples import BATCH, BINARY_DATA, BINARY_HEADERS, CORRECTION, EVENT
from shared.domain.errors import BrokerAway
from tests.support.ingest import MANY, ONE, HttpDoor, Taken, http_door, small_catalogue
from tests.support.usage import NOWHERE
from tests.unit.ingest.test_http_forms import Broken, Limited, _never_ending

DOCUMENT = document()
POST = DOCUMENT["paths"]["/v1/events"]["post"]
UNFIT = EVENT | {"data": {}}

Ask = Callable[[HttpDoor], Awaitable[httpx2.Response]]


def posted(content: Any, **more: Any) -> Ask:
    return lambda door: door.post(content, **more)


def asked(content: Any, query: str = "validate_only=true") -> Ask:
    async def ask(door: HttpDoor) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {door.keys['first']}", "Content-Type": ONE}
        return await door.client.post(f"/v1/events?{query}", content=json.dumps(content), headers=headers)

    return ask


def slow(monkeypatch: pytest.MonkeyPatch) -> Ask:
    async def ask(door: HttpDoor) -> httpx2.Response:
        monkeypatch.setattr(bodies, "BODY_DEADLINE_S", 0.02)
        told = await _never_ending(door)
        headers = [(name.decode(), value.decode()) for name, value in told["headers"]]
        body = told["body"].replace(b"0.02 s", b"30 s")  # the only word that differs
        return httpx2.Response(told["status"], headers=[h for h in headers if h[0] != "content-length"], content=body)

    return ask


REQUESTS: dict[tuple[str, str], Ask] = {
    ("200", "would_accept"): asked(EVENT),
    ("200", "would_reject"): asked(UNFIT),
    ("202", "accepted"): posted(EVENT),
    ("202", "partly"): posted([EVENT, UNFIT]),
    ("400", "malformed"): posted([]),
    ("400", "not_gzip"): posted(gzip.compress(b"[]")[:-3], media_type=MANY, headers={"Content-Encoding": "gzip"}),
    ("400", "misspelt"): asked(EVENT, "validate_onyl=true"),
    ("401", "no_key"): posted(EVENT, key=None),
    ("401", "unknown"): posted(EVENT, key="unknown"),
    ("401", "over"): posted(EVENT, key="expired"),
    ("403", "no_scope"): posted(EVENT, key="reader"),
    ("403", "wrong_project"): posted(EVENT | {"project": "zenith-app"}),
    ("405", "only_post"): lambda door: door.client.get("/v1/events"),
    ("413", "body"): posted(b" " * (5 * 1024 * 1024 + 1)),
    ("413", "inflated"): posted(gzip.compress(bytes(6_000_000)), headers={"Content-Encoding": "gzip"}),
    ("413", "events"): posted([EVENT] * 1001),
    ("413", "event"): posted(EVENT | {"data": "x" * 262_144}),
    ("415", "type"): posted(b"a,b", media_type="text/csv"),
    ("415", "encoding"): posted(b"", headers={"Content-Encoding": "br"}),
    ("422", "one"): posted(UNFIT),
    ("422", "unknown_type"): posted(EVENT | {"type": "api.unheard"}),
    ("422", "correction"): posted(CORRECTION | {"data": {"target": {"id": "9f2c1c52-1"}}}),
    ("422", "reserved_type"): posted(EVENT | {"type": "khata.usage.vodi"}),
    ("422", "all"): posted([UNFIT, EVENT | {"id": ""}]),
    ("429", "limit"): posted(EVENT),
    ("500", "fault"): posted(EVENT),
    ("503", "away"): posted(EVENT),
}
WITH: dict[str, dict[str, Any]] = {
    "429": {"limits": Limited(wait_s=1)},
    "500": {"sender": Broken(ZeroDivisionError())},
    "503": {"sender": Broken(BrokerAway("away"))},
}
EXAMPLES = [
    (status, name)
    for status, response in POST["responses"].items()
    for content in response["content"].values()
    for name in content["examples"]
]


def _timeless(body: dict[str, Any]) -> dict[str, Any]:
    """Stamped times differ from call to call; that they are times is checked here."""
    for time in body.get("times", {}).values():
        assert datetime.fromisoformat(time).tzinfo is not None
    return body | ({"times": sorted(body["times"])} if "times" in body else {})


@pytest.mark.parametrize(("status", "name"), EXAMPLES)
async def test_the_server_answers_as_the_example_says(status: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = REQUESTS[status, name] if status != "408" else slow(monkeypatch)
    parts = {"sender": Taken()} | WITH.get(status, {})
    async with http_door(NOWHERE, *small_catalogue(), **parts) as door:
        answer = await ask(door)
    response = POST["responses"][status]
    [(media_type, content)] = response["content"].items()
    assert answer.status_code == int(status), answer.text
    assert answer.headers["content-type"] == media_type
    assert _timeless(answer.json()) == _timeless(content["examples"][name]["value"])
    _valid(answer.json(), content["schema"])
    for header, described in response["headers"].items():
        schema = _resolve(described)["schema"]
        assert re.search(schema["pattern"], answer.headers[header]), header


def test_every_request_here_stands_in_the_document() -> None:
    assert REQUESTS.keys() | {("408", "slow")} == set(EXAMPLES)


def _resolve(one: dict[str, Any]) -> dict[str, Any]:
    found = DOCUMENT
    for step in one["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return found


def _valid(value: Any, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema | {"components": DOCUMENT["components"]}).validate(value)


async def test_the_examples_of_requests_are_accepted_and_fit_their_schema() -> None:
    async with http_door(NOWHERE, *small_catalogue(), sender=Taken()) as door:
        for media_type, content in POST["requestBody"]["content"].items():
            for name, example in content["examples"].items():
                binary = name == "binary"
                headers = BINARY_HEADERS if binary else {}
                answer = await door.post(json.dumps(example["value"]).encode(), media_type=media_type, headers=headers)
                assert answer.status_code == 202, answer.text
                assert answer.json()["rejected"] == 0
                if not binary:
                    _valid(example["value"], content["schema"])
                if name == "correction":
                    _valid(example["value"]["data"], DOCUMENT["components"]["schemas"]["Amend"])
    assert BINARY_DATA["tokens"] == 3
    assert len(BATCH) == 2


def test_the_document_is_openapi() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    refs = set(re.findall(r'"\$ref": "#/components/(\w+)/([\w-]+)"', json.dumps(DOCUMENT)))
    assert all(name in DOCUMENT["components"][kind] for kind, name in refs)
