"""The receipts of several processes, held against the log: every door, and what came through a spool."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx2

from shared.contracts.headers import SPOOL, first
from shared.contracts.messages.event import decode_event
from shared.contracts.messages.receipt import Receipt, decode_receipt, fingerprint, hash_of_value
from shared.contracts.topics import INGEST_RECEIPTS, USAGE_EVENTS, USAGE_RAW
from shared.kafka.records import Record
from tests.conftest import Parts
from tests.support.catalogue import apply_document
from tests.support.kafka import read_topic, send
from tests.support.services import Services, services
from tests.support.waiting import eventually

CALLS, EVENTS = 6, 50


def event(number: int, **more: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"{number}",
        "source": "receipts",
        "type": "api.request",
        "subject": f"customer-{number % 7}",
        "data": {"tokens": 1},
    } | more


async def post(running: Services, key: str, source: str) -> None:
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        for call in range(CALLS):
            numbers = range(call * EVENTS, (call + 1) * EVENTS)
            answer = await client.post(
                running.url("ingest") + "/v1/events",
                content=json.dumps([event(number, source=source) for number in numbers]),
                headers={"Authorization": f"Bearer {key}", "Content-Type": "application/cloudevents-batch+json"},
            )
            assert answer.status_code == 202, answer.text


async def test_every_receipt_is_what_the_log_holds_and_nothing_acked_is_without_one(
    parts: Parts, tmp_path: Path
) -> None:
    key = (await apply_document(parts)).secrets["acme-app/first"]
    raw = [json.dumps(event(number, source="raw", project="acme-app")).encode() for number in range(EVENTS)]
    await send(parts, parts.kafka.names.topic(USAGE_RAW), raw, keys=5)
    log, edge = tmp_path / "log", tmp_path / "edge"
    spooling = {
        "KHATA_INSTANCE": "edge-1",
        "SPOOL_PATH": str(tmp_path / "spool.sqlite3"),
        "SPOOL_MIN_FREE_BYTES": "0",
        "INGEST_ACCEPT": "spool",
    }
    with services(log, parts.env, "ingest") as direct, services(edge, parts.env | spooling, "ingest") as spooled:
        await post(direct, key, "direct")
        await post(spooled, key, "edge")
        wanted = 2 * CALLS * EVENTS + EVENTS
        events = await eventually(lambda: events_in_the_log(parts), lambda found: len(found) >= wanted)
    receipts = [decode_receipt(record.value or b"") for record in await read_topic(parts, topic(parts))]

    assert len(events) == wanted
    assert {receipt.process.rpartition("-")[0] for receipt in receipts} == {"test-1", "edge-1"}
    assert sum(each.count for receipt in receipts for each in receipt.ranges) == wanted
    assert sum(receipt.unanswered for receipt in receipts) == 0
    assert {each.spool != "" for receipt in receipts for each in receipt.ranges} == {True, False}
    for process, told in by_process(receipts).items():
        assert [receipt.sequence for receipt in told] == list(range(1, len(told) + 1)), process
        assert [receipt.last for receipt in told] == [False] * (len(told) - 1) + [True], process
        for receipt in told:
            hold_against_the_log(receipt, events)


def hold_against_the_log(receipt: Receipt, events: list[Record]) -> None:
    for each in receipt.ranges:
        between = [
            record
            for record in events
            if record.partition == each.partition and each.first_offset <= record.offset <= each.last_offset
        ]
        own = [record for record in between if origin(record, receipt.process) == each.spool]
        assert len(own) == each.count
        assert fingerprint(sum(hash_of_value(record.value or b"") for record in own)) == each.fingerprint


def origin(record: Record, process: str) -> str | None:
    """Id of the spool it came through, "" when the process wrote it itself, None when it is another's."""
    spool = first(record.headers, SPOOL)
    if spool is not None:
        return spool.decode()
    return "" if decode_event(record.value or b"").ingestid == process else None


def by_process(receipts: list[Receipt]) -> dict[str, list[Receipt]]:
    found = defaultdict(list)
    for receipt in receipts:
        found[receipt.process].append(receipt)
    return found


async def events_in_the_log(parts: Parts) -> list[Record]:
    return await read_topic(parts, parts.kafka.names.topic(USAGE_EVENTS))


def topic(parts: Parts) -> str:
    return parts.kafka.names.topic(INGEST_RECEIPTS)
