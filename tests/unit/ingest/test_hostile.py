"""Each hostile call gets its documented answer, none a 500, and memory stays where it was."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.ingest.binary import envelope_of, http_attributes, kafka_attributes
from services.ingest.http.inflate import inflate
from services.ingest.kafka_door import KafkaDoor
from services.ingest.validate import read_envelope, split
from shared.contracts.messages.event import decode_event, encode_event
from shared.domain.errors import Rejected
from shared.domain.identity import payload_fingerprint, read_data
from shared.kafka.records import Record
from tests.support.hostile import GOOD, Hostile, corpus
from tests.support.ingest import HttpDoor, Taken, http_door, small_catalogue
from tests.support.ingest import settings as ingest_settings
from tests.support.usage import NOWHERE

CORPUS = corpus()
GROWTH_BYTES = 48 * 1024 * 1024  # a body of 5 MB is copied a few times; a bomb that goes off takes 200 MB


async def _send(door: HttpDoor, call: Hostile) -> tuple[int, str | None]:
    key = f"Bearer {door.keys['first']}".encode()
    headers = [(b"authorization", key), (b"content-type", call.media_type.encode("latin-1"))]
    headers += [(name.encode(), value) for name, value in call.headers]
    request = door.client.build_request("POST", "/v1/events", content=call.body, headers=headers)
    answer = await door.client.send(request)
    assert answer.headers["x-request-id"]
    told = answer.json()
    if answer.status_code == 202:
        return 202, told["errors"][0]["code"] if told["errors"] else None
    assert (told["status"], told["type"]) == (answer.status_code, f"urn:khata:problem:{told['code']}")
    return answer.status_code, told["code"]


def test_the_corpus_is_large_and_has_no_call_twice() -> None:
    assert len(CORPUS) >= 150
    doubled = [name for name, count in Counter(call.name for call in CORPUS).items() if count > 1]
    assert doubled == []


@pytest.mark.parametrize("call", CORPUS, ids=lambda call: call.name[:60])
async def test_a_hostile_call_gets_its_documented_answer(call: Hostile) -> None:
    taken = Taken()
    async with http_door(NOWHERE, *small_catalogue(), sender=taken) as door:
        assert await _send(door, call) == (call.status, call.code)
    assert len(taken.events) == (1 if call.status == 202 else 0)
    for event in taken.events:  # what was accepted can be read and hashed by everyone behind
        payload_fingerprint(event.type, event.subject, read_data(bytes(event.data)))
        assert decode_event(encode_event(event)) == event
        assert (event.project, event.live, event.unmetered) == ("acme-app", True, False)


async def test_memory_stays_where_it_was_however_often_they_come() -> None:
    process = psutil.Process()
    async with http_door(NOWHERE, *small_catalogue(), sender=Taken()) as door:
        for call in CORPUS:  # what the process keeps for good is there after these
            await _send(door, call)
        gc.collect()
        before = process.memory_info().rss
        with peak() as highest:
            for call in CORPUS:
                await _send(door, call)
        for first in range(0, len(CORPUS), 8):
            await asyncio.gather(*(_send(door, call) for call in CORPUS[first : first + 8]))
        gc.collect()
        grown = process.memory_info().rss - before
    assert grown < GROWTH_BYTES, f"{grown / 2**20:.0f} MiB more after two rounds"
    assert highest() - before < GROWTH_BYTES, f"one call took {(highest() - before) / 2**20:.0f} MiB for a while"


@contextmanager
def peak() -> Iterator[Callable[[], int]]:
    """The highest resident size while it is open; only Linux tells it, elsewhere it is 0."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    found = 0
    if reset.exists():
        reset.write_text("5")
    yield lambda: found
    if status.exists():
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        found = int(line.split()[1]) * 1024


async def test_the_kafka_door_takes_the_same_bodies_or_rejects_them() -> None:
    cache, _ = small_catalogue()
    door = KafkaDoor(ingest_settings(NOWHERE), cache, Taken(), None, "test", "g")  # type: ignore[arg-type]
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    accepted = rejected = 0
    for offset, call in enumerate(CORPUS):
        own = [(name.replace("ce-", "ce_"), value) for name, value in call.headers]
        headers = (*own, ("content-type", call.media_type.encode("latin-1")))
        for topic in ("usage.raw.v1", "usage.raw.acme-app.v1"):
            record = Record(topic, 0, offset, now_ms, b"k", call.body, headers)
            try:
                await door._check(record, cache.refresh_once())
                accepted += 1
            except Rejected:
                rejected += 1
    assert accepted > 50
    assert rejected > 300


BYTES = st.binary(max_size=200)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        name: JSON | st.text(max_size=12)
        for name in ("specversion", "id", "source", "type", "subject", "time", "data", "datacontenttype", "project")
    },
)


@given(
    BYTES | JSON.map(lambda value: json.dumps(value).encode()) | EVENTS.map(lambda value: json.dumps(value).encode())
)
@settings(max_examples=300, deadline=None)
@example(GOOD)
def test_the_decoder_reads_or_rejects_whatever_it_is_given(body: bytes) -> None:
    for read in (read_envelope, split):
        try:
            read(body)
        except Rejected as error:
            assert error.code in ("malformed", "invalid_event", "too_large")


@given(BYTES, st.sampled_from(["gzip", "zstd"]))
@settings(max_examples=300, deadline=None)
@example(b"\x28\xb5\x2f\xfd", "zstd")
@example(b"\x1f\x8b", "gzip")
def test_inflating_whatever_it_is_given_never_fails_otherwise(body: bytes, coding: str) -> None:
    for data in (body, b"\x28\xb5\x2f\xfd" + body, b"\x1f\x8b\x08\x00" + body):
        try:
            assert len(inflate(data, coding, 1000)) <= 1000
        except Rejected as error:
            assert error.code in ("malformed", "too_large")


@given(st.lists(st.tuples(st.sampled_from([b"ce-id", b"ce-subject", b"CE-x", b"ce-", b"other"]), BYTES), max_size=5))
@settings(max_examples=300, deadline=None)
def test_headers_become_attributes_or_an_invalid_event(pairs: list[tuple[bytes, bytes]]) -> None:
    for read in (
        lambda: http_attributes(pairs),
        lambda: kafka_attributes([(name.decode().replace("-", "_"), value) for name, value in pairs]),
    ):
        try:
            envelope_of(read(), "application/json", b"{}")
        except Rejected as error:
            assert error.code == "invalid_event"


@given(st.text(max_size=50))
def test_a_percent_encoded_text_arrives_as_it_was(text: str) -> None:
    encoded = "".join(f"%{byte:02X}" for byte in text.encode(errors="ignore"))
    assert http_attributes([(b"ce-subject", encoded.encode())])["subject"] == text.encode(errors="ignore").decode()
