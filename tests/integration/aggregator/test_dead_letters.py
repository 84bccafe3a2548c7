"""Every dead letter is kept in Postgres, once, byte for byte, whatever stands in it."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from services.aggregator.dead_letters.keep import DeadLetters
from shared.contracts.topics import USAGE_RAW, project_raw
from shared.kafka import consumer, topics
from shared.kafka.dead_letter import KEPT_BYTES
from shared.kafka.records import Batch, OffsetRange, Record
from shared.postgres.outbox import OutboxMessage
from tests.conftest import Parts
from tests.integration.ingest.test_damaged_records import poison
from tests.support.kafka import admin, send
from tests.support.letters import about, ask, events_topic, keep, keeper, khata, rows, write
from tests.support.usage import counting, opened
from tests.support.waiting import eventually

BYTES = bytes(range(256))


async def test_a_letter_is_kept_once_however_often_it_comes_and_with_every_byte(parts: Parts) -> None:
    raw = parts.kafka.names.topic(USAGE_RAW)
    own = ((" ", BYTES), ("twice", b"1"), ("nul\x00", b""), ("twice", b"2"))
    letters = [about(raw, BYTES, *own), about(raw, None, offset=1), about(events_topic(parts), b"", offset=1)]
    await write(parts, *letters, letters[0], letters[1])
    async with keeper(parts):
        await eventually(lambda: rows(parts), lambda found: len(found) == 3)
        await write(parts, letters[0], about(raw, b"last", offset=2))
        await eventually(lambda: rows(parts), lambda found: len(found) == 4)
    found = await rows(parts, "topic, log_offset, key, value, header_names, header_values")
    stored = {
        (topic, offset): (key, value, list(zip(names, values, strict=True)))
        for topic, offset, key, value, names, values in found
    }
    for (topic, offset), sent in zip([(raw, 0), (raw, 1), (events_topic(parts), 1)], letters, strict=True):
        expected = [(name.encode(), value) for name, value in sent.headers]
        assert stored[topic, offset] == (sent.key, sent.value, expected)


async def test_a_dead_letter_topic_that_is_deleted_and_made_anew_is_read_again(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "METADATA_MAX_AGE_MS", 500)
    raw = parts.kafka.names.topic(USAGE_RAW)
    await write(parts, about(raw, b"before"))
    async with keeper(parts):
        await eventually(lambda: rows(parts), lambda found: len(found) == 1)
        async with admin(parts) as kafka:
            await kafka.delete_topics([raw + ".dlq"])

        async def deleted() -> bool:
            return raw + ".dlq" not in await topics.present(parts.kafka)

        await eventually(deleted, bool)
        await topics.apply(parts.kafka, dev=True)
        await write(parts, about(raw, b"after", offset=1), about(raw, b"later", offset=2))
        await eventually(lambda: rows(parts), lambda found: len(found) == 3, 40)


HOSTILE: tuple[dict[str, bytes], ...] = (
    {"dlq.attempt": b"9" * 15, "dlq.timestamp": b"9" * 15, "dlq.truncated_from": b"9" * 15},
    {"dlq.timestamp": b"253402300799999", "dlq.error_code": b"nul\x00\xff" * 100, "dlq.error": b"\xed\xa0\x80\x00"},
    {"dlq.failed_at": b"0001-01-01T00:00:00+23:59", "dlq.group": "\u202e".encode(), "dlq.service": b""},
    {"dlq.partition": b"2147483647", "dlq.offset": b"9" * 15, "dlq.topic": b"\x00"},
    {"": b"", "\x00": b"\x00", "ce_time": b"9999-12-31T23:59:59.999999Z", "ce_project": b"acme-app"},
    {"ce_id": b"\xff", "ce_time": b"0002-01-01T00:00:00+14:00"},
)


async def test_postgres_takes_whatever_stands_in_a_dead_letter_topic_and_the_commands_show_it(parts: Parts) -> None:
    async with counting(parts.database_url):
        pass  # the catalogue
    topic = parts.kafka.names.topic(USAGE_RAW)
    values = (b'{"time":"\\u0000","project":"\\ud800"}', b"[" * 100_000, b"\x00" * KEPT_BYTES, None, b"", b"{}")
    letters = [
        OutboxMessage(topic + ".dlq", None, value, tuple(headers.items()))
        for headers, value in zip(HOSTILE, values, strict=True)
    ]
    await write(parts, *letters)
    async with keeper(parts):
        await eventually(lambda: rows(parts), lambda found: len(found) == len(letters))
    found = await rows(parts, "value, header_names, header_values")
    stored = sorted((value or b"", *zip(names, kept, strict=True)) for value, names, kept in found)
    sent = sorted((one.value or b"", *((name.encode(), value) for name, value in one.headers)) for one in letters)
    assert stored == sent
    assert [key for key, value in await rows(parts, "key, value") if value is None] == [b""]  # a record of nothing
    for id, _ in await rows(parts):
        code, out, err = await khata(parts, "dead-letters", "show", str(id))
        assert (code, err) == (0, "")
        assert all(character.isprintable() or character == "\n" for character in out)
        await ask(parts, "dead-letters", "show", str(id))
    assert sum(row["letters"] for row in await ask(parts, "dead-letters", "redrive", "--dry-run")) == len(letters)


async def test_a_topic_that_appears_and_a_letter_that_no_client_can_decode_are_read_too(parts: Parts) -> None:
    raw = parts.kafka.names.topic(USAGE_RAW)
    async with keeper(parts):
        await write(parts, about(raw, b"first"))
        await eventually(lambda: rows(parts), lambda found: len(found) == 1)
        await topics.apply(parts.kafka, dev=True, projects=["acme-app"])
        own = parts.kafka.names.topic(project_raw("acme-app"))
        await write(parts, about(own, b"{"))
        await poison(parts, raw + ".dlq", b"k")
        await send(parts, raw + ".dlq", [b"after"])
        found = await eventually(
            lambda: rows(parts, "topic, value, project_id, origin_known, damaged <> ''"),
            lambda found: len(found) == 4,
            deadline_s=30,
        )
    assert sorted(found) == sorted(
        [
            (raw, b"first", None, True, False),
            (own, b"{", "acme-app", True, False),
            (raw, b"{}", None, False, True),
            (raw, b"after", None, False, False),
        ]
    )


async def test_a_decision_stands_when_the_letter_comes_again_after_all_is_read_from_the_beginning(parts: Parts) -> None:
    raw = parts.kafka.names.topic(USAGE_RAW)
    await write(parts, about(raw, b"v"))
    async with opened(parts.database_url, "khata_aggregator") as database:
        handler = DeadLetters(parts.kafka, database, parts.kafka.names.group("aggregator", "dead-letters"))
        await handler.apply(_batch(raw, about(raw, b"v")))
        [(id, _)] = await rows(parts)
        code, _, err = await khata(parts, "dead-letters", "drop", str(id), "--reason", "a test", "--yes")
        assert code == 0, err
        await handler.start_again((raw + ".dlq",))
        await handler.apply(_batch(raw, about(raw, b"v")))
    assert await rows(parts) == [(id, "dropped")]


async def test_filters_choose_and_odd_bytes_are_shown_safely(parts: Parts) -> None:
    async with counting(parts.database_url):
        pass  # the catalogue
    raw, events = parts.kafka.names.topic(USAGE_RAW), events_topic(parts)
    own = parts.kafka.names.topic(project_raw("acme-app"))
    hostile = b'{"subject":"\x1b[2J\xe2\x80\xae"}'
    await keep(
        parts,
        about(own, hostile, ("h\x1b", b"\x1b]0;x\x07"), code="bad\x1b[31m"),
        about(raw, BYTES, offset=1, code="malformed", group=f"{parts.prefix}khata.ingest.door"),
        about(events, b'{"project":"zenith-app"}', code="malformed"),
        OutboxMessage(raw + ".dlq", None, b"no origin", ()),
    )
    one, two, three, four = [id for id, _ in await rows(parts)]
    expected: dict[tuple[str, ...], list[int]] = {
        (): [four, three, two, one],
        ("--topic", "usage.raw.v1", "--until", "2026-10-21"): [two],
        ("--topic", events + ".dlq"): [three],
        ("--code", "malformed", "--limit", "1"): [three],
        ("--project", "acme-app"): [one],
        ("--group", "khata.ingest.door"): [two],
        ("--since", "1h", "--state", "open"): [four],
        ("--state", "dropped"): [],
    }
    found = [await ask(parts, "dead-letters", "list", *filters) for filters in expected]
    assert [[row["id"] for row in each] for each in found] == list(expected.values())
    asked = (("show", str(one)), ("show", str(two)), ("list",), ("redrive", "--dry-run"), ("show", "999"))
    shown = [await khata(parts, "dead-letters", *arguments) for arguments in asked]
    assert [code for code, _, _ in shown] == [0, 0, 0, 0, 2]
    for _, out, _ in shown:
        assert all(character.isprintable() or character == "\n" for character in out)
    assert r"\x1b[2J\u202e" in shown[0][1]
    assert "organisation          acme\n" in shown[0][1]
    assert "000000f0  f0 f1" in shown[1][1]
    document: dict[str, Any] = await ask(parts, "dead-letters", "show", str(two))
    assert (document["value"], base64.b64decode(document["value_base64"])) == (None, BYTES)


def _batch(raw: str, letter: OutboxMessage) -> Batch:
    record = Record(letter.topic, 0, 0, 1_800_000_000_000, letter.key, letter.value, letter.headers)
    return Batch((record,), (OffsetRange(letter.topic, 0, 0, 1, record),))
