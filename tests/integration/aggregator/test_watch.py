"""Planted in key activity, found by a real watch process, stored by a real aggregator, listed by the command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shared.contracts.messages.activity import KeyActivity, encode_activity
from shared.contracts.messages.anomaly import Anomaly, decode_anomaly
from shared.contracts.messages.event import event_key
from shared.contracts.messages.window import WindowMessage, encode_window, window_key
from shared.contracts.topics import ANOMALIES, KEYS_ACTIVITY, USAGE_WINDOWS, WATCH_STATE
from shared.kafka.partitions import partition_of
from shared.kafka.producer import Producer
from shared.postgres.outbox import OutboxMessage
from tests.conftest import Parts
from tests.support.activity import HOME, minute, steady
from tests.support.hours import window
from tests.support.kafka import read_topic
from tests.support.pods import Pod
from tests.support.services import services
from tests.support.waiting import eventually

# Keys of one partition: their records tell each other's time.
KEYS = [
    name for number in range(99) if partition_of((name := f"key-{number:02}").encode(), KEYS_ACTIVITY.partitions) == 1
]
STEADY, SPIKING, STOPPING, MOVING, TIMEKEEPER = KEYS[:5]
AWAY = ("p1.ffffffffffffffff",)


async def publish(parts: Parts, records: Sequence[KeyActivity]) -> None:
    """As ingest would, minute by minute."""
    producer = Producer(parts.kafka, "test")
    topic = parts.kafka.names.topic(KEYS_ACTIVITY)
    ordered = sorted(records, key=lambda one: one.minute)
    try:
        await producer.send([OutboxMessage(topic, one.key_id.encode(), encode_activity(one)) for one in ordered])
    finally:
        await producer.stop()


async def publish_windows(parts: Parts, windows: Sequence[WindowMessage]) -> None:
    """As the aggregator would."""
    producer, topic = Producer(parts.kafka, "test"), parts.kafka.names.topic(USAGE_WINDOWS)
    place = partition_of(event_key("acme-app", "alice"), USAGE_WINDOWS.partitions)
    records = [OutboxMessage(topic, window_key(one), encode_window(one), partition=place) for one in windows]
    try:
        await producer.send(records)
    finally:
        await producer.stop()


async def found(parts: Parts) -> list[Anomaly]:
    records = await read_topic(parts, parts.kafka.names.topic(ANOMALIES))
    return [decode_anomaly(record.value or b"") for record in records]


def khata(parts: Parts, *arguments: str) -> Any:
    command = [sys.executable, "-m", "cli", *arguments, "--output", "json"]
    done = subprocess.run(command, env=parts.env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def stored(parts: Parts, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(parts.database_url) as connection:
        return connection.execute(query.encode()).fetchall()


async def test_what_is_planted_is_found_stored_and_listed_and_a_steady_hour_is_not(
    parts: Parts, tmp_path: Path
) -> None:
    start = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=3)
    hour = [record for key in KEYS[:5] for record in steady(key_id=key, start=start)]
    with services(tmp_path, parts.env | {"WATCH_LOOK_EVERY_S": "0.5"}, "watch", "aggregator"):
        await publish(parts, hour)

        async def applied() -> int:
            return len(stored(parts, "SELECT 1 FROM usage.key_activity"))

        await eventually(applied, lambda rows: rows == len(hour))
        await publish(
            parts,
            [
                *steady(30, key_id=STEADY, start=start, first=60),
                *steady(30, key_id=TIMEKEEPER, start=start, first=60),
                minute(60, 50_000, key_id=SPIKING, start=start),
                *steady(29, key_id=SPIKING, start=start, first=61),
                *steady(30, key_id=MOVING, start=start, first=60, addresses=HOME + AWAY),
            ],
        )
        first = start.replace(minute=30) - timedelta(hours=60)
        late = first + timedelta(hours=59)
        await publish_windows(
            parts,
            [
                *(window(n, 100, start=first) for n in range(48)),
                window(48, 100, "-40.5", start=first),
                window(49, 900, start=first),
                *(window(n, 100, start=first) for n in (50, 51)),
                window(5, 150, start=first, revision=2, updated_at=late),
            ],
        )
        anomalies = await eventually(lambda: found(parts), lambda some: len(some) >= 6, 120)
        await eventually(lambda: _count(parts), lambda rows: rows == 6)
    by_key = {(one.key_id, one.found.value, (one.minute - start) // timedelta(minutes=1)) for one in anomalies}
    of_keys = {(SPIKING, "spike", 60), (MOVING, "new_address", 60), (STOPPING, "silent", 60)}
    assert {one for one in by_key if one[0] is not None} == of_keys
    of_hours = {(one.found.value, (one.minute - first) // timedelta(hours=1)) for one in anomalies if one.window}
    assert of_hours == {("negative_quantity", 48), ("hour_spike", 49), ("late_change", 5)}
    assert len(await found(parts)) == 6  # each once, and none for the others
    listed = khata(parts, "anomalies", "list", "--project", "acme-app")
    assert {(row["key_id"], row["class"]) for row in listed} == {(key, kind) for key, kind, _ in by_key}
    [negative] = [row for row in listed if row["class"] == "negative_quantity"]
    assert (negative["subject"], negative["meter"], negative["quantity"]) == ("alice", "tokens", "-40.5")


async def _count(parts: Parts) -> int:
    return len(stored(parts, "SELECT 1 FROM usage.anomaly"))


async def test_a_watch_that_was_killed_knows_what_it_knew_and_tells_nothing_twice_under_another_id(
    parts: Parts, tmp_path: Path
) -> None:
    start = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=4)
    watch = Pod("w1", "watch", tmp_path, parts.env).start()
    await publish(parts, [r for key in (MOVING, TIMEKEEPER) for r in steady(90, key_id=key, start=start)])
    await publish(parts, [minute(90, key_id=MOVING, start=start, addresses=AWAY)])
    await eventually(lambda: found(parts), lambda some: len(some) == 1, 60)
    watch.kill()
    watch.start()
    await publish(parts, [minute(91, key_id=MOVING, start=start, addresses=AWAY)])  # known: it was found before
    await publish(parts, [minute(92, key_id=MOVING, start=start, addresses=("p1.eeeeeeeeeeeeeeee",))])
    anomalies = await eventually(lambda: found(parts), lambda some: len({one.id for one in some}) == 2, 60)
    assert watch.terminate() == 0
    assert all(json.loads(line)["event"] for line in watch.log.read_text().splitlines())
    assert {one.address for one in anomalies} == {AWAY[0], "p1.eeeeeeeeeeeeeeee"}
    states = await read_topic(parts, parts.kafka.names.topic(WATCH_STATE))
    assert {record.partition for record in states} == {1}  # where the keys of the topic are


@pytest.mark.chaos
def test_asked_to_stop_while_it_starts_watch_ends_with_0(parts: Parts, tmp_path: Path) -> None:
    watch = Pod("w1", "watch", tmp_path, parts.env).start(wait=False)
    while "process.started" not in watch.log.read_text():
        assert watch.child is not None
        assert watch.child.exit_code is None
    assert watch.terminate() == 0


async def test_advice_that_cannot_be_read_is_a_dead_letter_and_a_repetition_is_stored_once(
    parts: Parts, tmp_path: Path
) -> None:
    start = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=1)
    topic = parts.kafka.names.topic(KEYS_ACTIVITY)
    producer = Producer(parts.kafka, "test")
    bad = [b"{", b'{"minute":"2026-11-25T14:02:00","key_id":"k","process_id":"p"}', b"\\u0000", None]
    await producer.send([OutboxMessage(topic, b"k", value) for value in bad])
    await producer.stop()
    record = minute(1, key_id=STEADY, start=start, failed={"malformed": 2})
    await publish(parts, [record, record, minute(1, key_id=STEADY, start=start, process_id="ingest-2")])
    with services(tmp_path, parts.env, "aggregator"):
        dead = await eventually(lambda: read_topic(parts, f"{topic}.dlq"), lambda letters: len(letters) == 4)
        assert [letter.value for letter in dead] == bad

        async def rows() -> list[tuple[Any, ...]]:
            return stored(parts, "SELECT process_id, failed FROM usage.key_activity ORDER BY 1")

        await eventually(rows, lambda found: found == [("ingest-1", {"malformed": 2}), ("ingest-2", {})])
