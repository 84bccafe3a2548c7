"""Redrive and drop: what an operator decides is done once, told, and harmless when it is done twice."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from services.aggregator.dead_letters import redrive
from services.aggregator.dead_letters.redrive import ONE_AT_A_TIME, ROLE
from shared.contracts.headers import DLQ_ATTEMPT, DLQ_TIMESTAMP, first
from shared.contracts.topics import USAGE_RAW
from shared.domain.errors import BrokerAway
from shared.domain.period import Month, time_zone
from shared.kafka.dead_letter import KEPT_BYTES
from shared.kafka.producer import MAX_RECORD_BYTES, Producer
from shared.kafka.records import Batch, OffsetRange, Record
from shared.postgres.leadership import candidate
from shared.runtime.failpoints import arm, held
from tests.conftest import ROOT, Parts
from tests.support.catalogue import DOCUMENT, apply_document
from tests.support.ingest import event
from tests.support.kafka import read_topic, send
from tests.support.letters import FAILED_AT, about, ask, audits, events_topic, keep, khata, rows
from tests.support.services import services
from tests.support.usage import NOON, Counting, counting, opened, seal_month, stamped
from tests.support.waiting import eventually

BYTES = bytes(range(256))


async def apply_all(count: Counting, records: Sequence[Record]) -> None:
    """What is in the events topic, by the aggregator's own code, from each partition's beginning."""
    for partition in sorted({record.partition for record in records}):
        mine = [record for record in records if record.partition == partition]
        moved = OffsetRange(mine[0].topic, partition, 0, mine[-1].offset + 1, mine[-1])
        await count.aggregator.apply(Batch(tuple(mine), (moved,)))


async def test_a_redriven_record_is_the_one_that_failed_and_a_dry_run_sends_nothing(parts: Parts) -> None:
    raw = parts.kafka.names.topic(USAGE_RAW)
    own = (("content-type", b"\xfe"), ("twice", b"1"), ("twice", BYTES))
    await keep(parts, about(raw, BYTES, *own), about(raw, None, offset=1), about(raw, b"x", offset=2, code="malformed"))
    planned = await ask(parts, "dead-letters", "redrive", "--code", "unknown_event_type", "--dry-run", "--yes")
    told = {name: planned[0][name] for name in ("topic", "code", "letters", "bytes", "outcome")}
    assert told == {
        "topic": raw,
        "code": "unknown_event_type",
        "letters": 2,
        "bytes": 256,
        "outcome": "would be redriven",
    }
    code, _, err = await khata(parts, "dead-letters", "redrive")  # nobody is there to be asked
    assert (code, "add --yes to do it" in err) == (0, True)
    assert (await read_topic(parts, raw), {state for _, state in await rows(parts)}) == ([], {"open"})

    [done] = await ask(parts, "dead-letters", "redrive", "--code", "unknown_event_type", "--reason", "fixed", "--yes")
    assert (done["redriven"], done["left"], done["refused"]) == (2, 0, 0)
    sent = sorted(await read_topic(parts, raw), key=lambda record: record.value or b"")
    assert [(record.key, record.value) for record in sent] == [(b"key", None), (b"key", BYTES)]
    assert sent[1].headers[:3] == own
    assert first(sent[1].headers, DLQ_ATTEMPT) == b"1"
    assert first(sent[1].headers, DLQ_TIMESTAMP) == str(int(FAILED_AT.timestamp() * 1000)).encode()
    found = await rows(parts, "state, decided_by, reason, redriven_offset IS NOT NULL, sending_since")
    assert found[:2] == [("redriven", "asha", "fixed", True, None)] * 2
    assert found[2] == ("open", None, None, False, None)
    [entry] = await audits(parts, "dead_letters.redriven")
    assert (entry["actor"], entry["object"]) == ("asha", done["order"])
    assert entry["details"] == {"letters": [1, 2], "reason": "fixed", "as_adjustment": False}
    assert await ask(parts, "dead-letters", "redrive", "--code", "unknown_event_type", "--yes") == []


async def test_an_event_without_a_meter_counts_once_after_the_meter_is_made_however_often_it_is_redriven(
    parts: Parts, tmp_path: Path
) -> None:
    await apply_document(parts, DOCUMENT | {"meters": []})
    raw = parts.kafka.names.topic(USAGE_RAW)
    with services(tmp_path, parts.env, "ingest", "aggregator"):
        await send(parts, raw, [json.dumps(event("late", 7, project="acme-app")).encode()])
        [(id, state, code)] = await eventually(lambda: rows(parts, "id, state, code"), deadline_s=30)
        assert (state, code) == ("open", "unknown_event_type")

        [done] = await ask(parts, "dead-letters", "redrive", "--project", "acme-app", "--yes")
        assert done["redriven"] == 1
        found = await eventually(lambda: rows(parts, "id, state, attempt"), lambda some: len(some) == 2)
        assert [row[1:] for row in found] == [("redriven", 1), ("open", 2)]  # too early: it failed again

        await apply_document(parts, DOCUMENT)
        again = found[1][0]
        assert (await khata(parts, "dead-letters", "redrive", str(again), "--yes"))[0] == 0
        for _ in range(2):
            done = await khata(parts, "dead-letters", "redrive", str(id), str(again), "--again", "--yes")
            assert done[0] == 0, done[2]

        async def applied() -> int:
            async with opened(parts.database_url, "khata_reader") as database, database.connection() as connection:
                row = await (await connection.execute("SELECT sum(record_count) FROM usage.segment")).fetchone()
                assert row is not None
                return int(row[0] or 0)

        await eventually(applied, lambda records: records == 5)
    async with opened(parts.database_url, "khata_reader") as database, database.connection() as connection:
        windows = await (
            await connection.execute("SELECT meter_id, count, sum FROM usage.window ORDER BY meter_id")
        ).fetchall()
        identities = await (await connection.execute("SELECT count(*) FROM usage.identity")).fetchone()
    assert [(meter, count, int(total)) for meter, count, total in windows] == [("requests", 1, 1), ("tokens", 1, 7)]
    assert identities == (1,)
    assert [state for _, state in await rows(parts)] == ["redriven", "redriven"]


@pytest.mark.failpoints("aggregator.redrive.before_mark")
async def test_killed_between_send_and_mark_it_is_known_as_perhaps_sent_and_sending_it_again_counts_once(
    parts: Parts, tmp_path: Path
) -> None:
    events = events_topic(parts)
    async with counting(parts.database_url, parts.kafka, parts.kafka.names.group("aggregator")) as count:
        await keep(parts, *(about(events, stamped(f"e{n}", n), offset=n) for n in range(3)))
        arm(tmp_path, "aggregator.redrive.before_mark")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli", "dead-letters", "redrive", "--yes"),
            cwd=ROOT,
            env=os.environ | parts.env | {"KHATA_FAILPOINTS_DIR": str(tmp_path), "KHATA_OPERATOR": "ravi"},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        os.kill(await held(tmp_path, "aggregator.redrive.before_mark", deadline_s=60), signal.SIGKILL)
        await process.wait()
        assert len(await read_topic(parts, events)) == 3
        assert await rows(parts, "state, sending_by, sending_since IS NOT NULL") == [("open", "ravi", True)] * 3
        _, shown, _ = await khata(parts, "dead-letters", "show", "1")
        assert "a redrive by ravi began" in shown
        assert (await ask(parts, "dead-letters", "redrive", "--dry-run"))[0]["perhaps_sent"] == 3

        async def redriven() -> int:  # Postgres ends the dead process's session, and its lock, in a moment
            done = await khata(parts, "dead-letters", "redrive", "--yes")
            return done[0]

        await eventually(redriven, lambda code: code == 0)
        records = await read_topic(parts, events)
        assert len(records) == 6
        await apply_all(count, records)
        assert await count.windows() == {"requests": (3, 3), "tokens": (3, 3)}
        assert sorted(await count.dispositions(events)) == list("cccddd")
    assert await rows(parts, "state, decided_by, sending_since") == [("redriven", "asha", None)] * 3


async def test_two_operators_cannot_redrive_at_once(parts: Parts) -> None:
    await keep(parts, about(events_topic(parts), b"{"))
    async with candidate(parts.database, ROLE, "other") as other:
        assert await other.leads(ONE_AT_A_TIME)
        for command in (("redrive",), ("drop", "--reason", "x")):
            code, _, err = await khata(parts, "dead-letters", *command, "--yes")
            assert (code, "under way" in err) == (2, True)
    assert (await rows(parts), await read_topic(parts, events_topic(parts))) == ([(1, "open")], [])


async def test_what_kafka_never_takes_is_told_and_holds_up_no_other(parts: Parts) -> None:
    raw = parts.kafka.names.topic(USAGE_RAW)
    large = os.urandom(MAX_RECORD_BYTES)
    letters = [about(raw, b"%d" % n, offset=n) for n in range(4)]
    await keep(parts, *letters, about(raw, large, ("h", os.urandom(200_000)), offset=5), about(raw, b"9", offset=9))
    code, out, err = await khata(parts, "dead-letters", "redrive", "--yes", "--output", "json")
    assert code == 1, err
    assert '"redriven": 5' in out
    assert '"refused": 1' in out
    assert "5: Kafka does not take it" in err
    found = await rows(parts, "state, sending_since")
    assert found == [("redriven", None)] * 4 + [("open", None), ("redriven", None)]
    assert {record.value for record in await read_topic(parts, raw)} == {b"0", b"1", b"2", b"3", b"9"}


async def test_a_redrive_that_loses_kafka_keeps_what_is_done_and_says_how_to_go_on(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = parts.kafka.names.topic(USAGE_RAW)
    await keep(parts, *(about(raw, b"%d" % n, offset=n) for n in range(5)))
    send_all, calls = Producer.send, itertools.count(1)

    async def lost(producer: Producer, messages: Any, deadline_s: float = 10.0) -> list[tuple[int, int]]:
        sent = await send_all(producer, messages, deadline_s)
        if next(calls) == 2:
            raise BrokerAway("Kafka did not acknowledge within 10 s")
        return sent

    monkeypatch.setattr(redrive, "BATCH_LETTERS", 2)
    monkeypatch.setattr(Producer, "send", lost)
    code, _, err = await khata(parts, "dead-letters", "redrive", "--yes")
    assert (code, "2 of 5 letters are redriven: run the same command again" in err) == (69, True)
    found = await rows(parts, "state, sending_since IS NOT NULL")
    assert found == [("redriven", False)] * 2 + [("open", True)] * 2 + [("open", False)]
    assert (await ask(parts, "dead-letters", "redrive", "--yes"))[0]["redriven"] == 3
    assert {state for _, state in await rows(parts)} == {"redriven"}


async def test_an_event_of_a_sealed_month_is_refused_unless_it_is_meant_as_an_adjustment(parts: Parts) -> None:
    events, group = events_topic(parts), parts.kafka.names.group("aggregator")
    async with counting(parts.database_url, parts.kafka, group) as count:
        await keep(
            parts,
            about(events, stamped("sealed", 5), offset=0),
            about(events, stamped("open month", 5, project="zenith-app"), offset=1),
            about(events, stamped("never billed", 5, live=False), offset=2),
        )
        await seal_month(
            parts.database_url, Month.of(NOON, time_zone("Asia/Kolkata")), "acme", topic=events, group=group
        )
        code, _, err = await khata(parts, "dead-letters", "redrive", "--yes")
        assert code == 2
        assert "1 of 3 letters are events of a sealed month (1 of acme 2026-10)" in err
        assert "--as-adjustment" in err
        assert await read_topic(parts, events) == []

        [done] = await ask(parts, "dead-letters", "redrive", "--project", "zenith-app", "--yes")
        assert done["redriven"] == 1
        [done] = await ask(parts, "dead-letters", "redrive", "--as-adjustment", "--reason", "agreed", "--yes")
        assert done["redriven"] == 2
        await apply_all(count, await read_topic(parts, events))
        assert sorted(await count.dispositions(events)) == ["a", "c", "t"]
        assert await count.rows("SELECT count(*) FROM usage.adjustment") == [(2,)]  # one for each meter
    details = [entry["details"]["as_adjustment"] for entry in await audits(parts, "dead_letters.redriven")]
    assert details == [False, True]


async def test_what_is_dropped_has_a_reason_and_an_audit_entry_for_each_organisation(parts: Parts) -> None:
    raw = parts.kafka.names.topic(USAGE_RAW)
    async with counting(parts.database_url):
        await keep(
            parts,
            about(raw, b'{"project":"acme-app"}'),
            about(raw, b'{"project":"zenith-app"}', offset=1),
            about(raw, b'{"project":"acme-app"}', offset=2),
            about(raw, b"{", offset=3, code="malformed"),
        )
    for refused in ((), ("--reason", " ")):
        assert (await khata(parts, "dead-letters", "drop", "--yes", *refused))[0] == 2
    drop = ("dead-letters", "drop", "--code", "unknown_event_type", "--reason", "a test of theirs")
    assert (await ask(parts, *drop, "--dry-run"))[0]["outcome"] == "would be dropped"
    assert {state for _, state in await rows(parts)} == {"open"}
    [done] = await ask(parts, *drop, "--yes")
    assert (done["dropped"], done["left"]) == (3, 0)
    entries = {entry["organisation"]: entry["details"] for entry in await audits(parts, "dead_letters.dropped")}
    assert entries == {
        "acme": {"letters": [1, 3], "reason": "a test of theirs"},
        "zenith": {"letters": [2], "reason": "a test of theirs"},
    }
    found: list[Any] = await rows(parts, "state, decided_by, reason")
    assert found == [("dropped", "asha", "a test of theirs")] * 3 + [("open", None, None)]
    assert (await khata(parts, "dead-letters", "redrive", "1", "--yes"))[0] == 2  # it is not open


async def test_a_truncated_letter_and_one_whose_topic_is_gone_are_not_sent(parts: Parts) -> None:
    raw = parts.kafka.names.topic(USAGE_RAW)
    value = b"x" * (KEPT_BYTES + 1)
    gone = parts.prefix + "usage.raw.gone.v1"
    await keep(parts, about(raw, value), about(raw, b"y", offset=1), about(gone, b"z"))
    assert (await rows(parts, "truncated_from, octet_length(value)"))[0] == (len(value), KEPT_BYTES)
    code, _, err = await khata(parts, "dead-letters", "redrive", "1", "--yes")
    assert (code, "cannot be redriven: they are truncated" in err) == (2, True)
    code, _, err = await khata(parts, "dead-letters", "redrive", "3", "--yes")
    assert (code, f"there is no topic {gone}" in err) == (2, True)
    code, _, err = await khata(parts, "dead-letters", "redrive", "--topic", "usage.raw.v1", "--yes")
    assert (code, "1 of 2 letters cannot be redriven" in err) == (0, True)
    assert [state for _, state in await rows(parts)] == ["open", "redriven", "open"]
    [sent] = await read_topic(parts, raw)
    assert sent.value == b"y"
    _, shown, _ = await khata(parts, "dead-letters", "show", "1")
    assert f"only the beginning of {len(value)} bytes" in shown
    assert hashlib.sha256(value).hexdigest().encode() in [
        bytes(one) for one in (await rows(parts, "header_values"))[0][0]
    ]
