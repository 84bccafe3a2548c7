"""Two real ingest processes: what they tell of keys is what was called, and nothing in it says from where."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psycopg

from shared.catalogue import keys
from shared.contracts.messages.activity import KeyActivity, decode_activity
from shared.contracts.topics import INGEST_PROCESSES, KEYS_ACTIVITY, USAGE_EVENTS, USAGE_RAW, dead_letter
from tests.conftest import Parts
from tests.support.catalogue import apply_document
from tests.support.ingest import event
from tests.support.kafka import read_topic, send
from tests.support.pods import Pod
from tests.support.services import services
from tests.support.waiting import eventually

CANARY = "203.0.113.77"
VIA = {"INGEST_TRUSTED_PROXIES": "127.0.0.0/8"}


@contextmanager
def two(parts: Parts, home: Path, **more: str) -> Iterator[list[Pod]]:
    """Started one after the other, stopped together."""
    pods = [Pod(f"i{number}", "ingest", home, parts.env | more) for number in (1, 2)]
    try:
        for pod in pods:
            pod.start()
        yield pods
    finally:
        assert [pod.terminate() for pod in pods if pod.child is not None] == [0, 0]


def call(pod: Pod, key: str, events: list[dict[str, Any]], client: httpx2.Client) -> int:
    answer = client.post(
        f"{pod.url}/v1/events",
        content=json.dumps(events),
        headers={
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/cloudevents-batch+json",
            "X-Forwarded-For": f"6.6.6.6, {CANARY}",
        },
    )
    return answer.status_code


def everyone_calls(pods: list[Pod], texts: dict[str, str]) -> Counter[int]:
    """10 rounds, in turn at each process; how often each status was answered."""
    statuses: Counter[int] = Counter()
    with httpx2.Client(trust_env=False, timeout=30) as client:
        for number in range(10):
            pod, id = pods[number % 2], str(number)
            good, bad = event(id), event(id + "x", subject=None)
            statuses[call(pod, texts["first"], [good, event(id + "b")], client)] += 1
            statuses[call(pod, texts["second"], [event(id + "c"), bad], client)] += 1
            statuses[call(pod, texts["first"], [bad], client)] += 1
            statuses[call(pod, keys.make(True)[0], [good], client)] += 1
    return statuses


async def told(parts: Parts) -> list[KeyActivity]:
    records = await read_topic(parts, parts.kafka.names.topic(KEYS_ACTIVITY))
    return [decode_activity(record.value or b"") for record in records]


async def test_what_two_processes_tell_is_what_was_called_and_no_address_is_readable_anywhere(
    parts: Parts, tmp_path: Path
) -> None:
    applied = await apply_document(parts)
    texts = {label.partition("/")[2]: text for label, text in applied.secrets.items()}
    raw = [json.dumps(event(f"raw-{number}", project="acme-app")).encode() for number in range(4)]
    await send(parts, parts.kafka.names.topic(USAGE_RAW), [*raw, b"{"])
    with two(parts, tmp_path, **VIA) as pods:
        assert everyone_calls(pods, texts) == {202: 20, 422: 10, 401: 10}

        async def forwarded() -> int:
            answers = [httpx2.get(f"http://127.0.0.1:{pod.metrics_port}/metrics", trust_env=False) for pod in pods]
            lines = [line for answer in answers for line in answer.text.splitlines()]
            wanted = ('khata_events_accepted_total{door="kafka"}', 'khata_events_rejected_total{code="malformed"')
            return sum(int(float(line.split()[-1])) for line in lines if line.startswith(wanted))

        await eventually(forwarded, lambda count: count == 5)
    activity = await told(parts)
    first, second = keys.parse(texts["first"]).id, keys.parse(texts["second"]).id
    assert _sums(activity, first) == {"calls": 20, "accepted": 20, "rejected": 10, "invalid_event": 10}
    assert _sums(activity, second) == {"calls": 10, "accepted": 10, "rejected": 10}
    assert _sums(activity, "unknown") == {"calls": 10, "rejected": 1, "unauthenticated": 10}
    assert _sums(activity, "door:acme-app") == {"accepted": 4}
    assert len({one.process_id for one in activity}) == 2
    hashes = {address for one in activity for address in one.addresses}
    assert len(hashes) == 1  # the same in both processes
    assert hashes.pop().startswith("test1.")

    with services(tmp_path / "aggregator", parts.env, "aggregator"):
        rows = await eventually(lambda: _rows(parts), lambda found: len(found) == len(activity))
        shown = _khata(parts, "keys", "activity", "acme-app/first", "--since", "1h")
        assert sum(row["accepted"] for row in shown) == 20
        assert {row["addresses"] for row in shown} == {1}
        assert sum(row["failed"].get("invalid_event", 0) for row in shown) == 10
    everything = [str(rows), str(shown), *_logs(tmp_path)]
    for topic in (KEYS_ACTIVITY, INGEST_PROCESSES, USAGE_EVENTS, dead_letter(USAGE_RAW)):
        records = await read_topic(parts, parts.kafka.names.topic(topic))
        assert records
        everything += [str((record.key, record.value, record.headers)) for record in records]
    assert not any(CANARY in text for text in everything)


async def test_a_setting_keeps_addresses_readable(parts: Parts, tmp_path: Path) -> None:
    applied = await apply_document(parts)
    pod = Pod("i1", "ingest", tmp_path, parts.env | VIA | {"INGEST_ADDRESSES": "clear"}).start()
    with httpx2.Client(trust_env=False) as client:
        assert call(pod, next(iter(applied.secrets.values())), [event("1")], client) == 202
    assert pod.terminate() == 0
    assert [one.addresses for one in await told(parts)] == [(f"clear.{CANARY}",)]


def _sums(activity: list[KeyActivity], key_id: str) -> dict[str, int]:
    found: Counter[str] = Counter()
    for one in activity:
        if one.key_id == key_id:
            found.update({"calls": one.calls, "accepted": one.accepted, "rejected": one.rejected} | one.failed)
    return {name: count for name, count in found.items() if count}


def _logs(home: Path) -> list[str]:
    return [path.read_text() for path in home.rglob("*.log")]


async def _rows(parts: Parts) -> list[tuple[Any, ...]]:
    with psycopg.connect(parts.database_url) as connection:
        return connection.execute("SELECT * FROM usage.key_activity").fetchall()


def _khata(parts: Parts, *arguments: str) -> Any:
    command = [sys.executable, "-m", "cli", *arguments, "--output", "json"]
    env = parts.env | {"KEY_PEPPERS": "test1:" + "5a" * 32}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
