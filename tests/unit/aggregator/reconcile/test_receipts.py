"""Receipts against the log: what is missing is found, whatever lies between; what is more is only shown."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from services.aggregator.reconcile.finding import FindingClass
from services.aggregator.reconcile.receipts import Tally, compare, told
from shared.contracts.headers import SPOOL
from shared.contracts.messages.receipt import AckedRange, Receipt, fingerprint, hash_of_value

TOPIC = "usage.events.v1"
MINUTE = datetime(2026, 11, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Logged:
    offset: int
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


def logged(offset: int, process: str, spool: str = "") -> Logged:
    value = msgspec.json.encode({"id": str(offset), "ingestid": process})
    return Logged(offset, value, ((SPOOL, spool.encode()),) if spool else ())


def acked(records: list[Logged], spool: str = "", partition: int = 0) -> AckedRange:
    return AckedRange(
        topic=TOPIC,
        partition=partition,
        spool=spool,
        first_offset=min(one.offset for one in records),
        last_offset=max(one.offset for one in records),
        count=len(records),
        fingerprint=fingerprint(sum(hash_of_value(one.value or b"") for one in records)),
    )


def receipt(process: str, sequence: int, *ranges: AckedRange, unanswered: int = 0) -> Receipt:
    return Receipt(process=process, sequence=sequence, minute=MINUTE, ranges=ranges, unanswered=unanswered, last=False)


def findings(receipts: list[Receipt], log: list[Logged]) -> list[FindingClass]:
    said = told(receipts, TOPIC)
    Tally(said.stretches).add(log)
    return [found.found for one in said.stretches if (found := compare(one)) is not None]


def test_records_of_other_processes_between_them_do_not_matter() -> None:
    log = [logged(offset, "a" if offset % 3 else "b") for offset in range(30)]
    assert findings([receipt("a", 1, acked([one for one in log if one.offset % 3]))], log) == []


def test_a_record_that_is_not_in_the_log_is_a_finding_and_so_is_another_in_its_place() -> None:
    log = [logged(offset, "a") for offset in range(10)]
    said = [receipt("a", 1, acked(log))]
    assert findings(said, log[:4] + log[5:]) == [FindingClass.RECEIPT_MISSING]
    other = [*log[:4], Logged(4, (log[4].value or b"").replace(b'"4"', b'"x"')), *log[5:]]
    assert findings(said, other) == [FindingClass.RECEIPT_DIFFERS]


def test_more_in_the_log_than_acknowledged_is_shown_and_no_finding() -> None:
    log = [logged(offset, "a") for offset in range(10)]
    said = told([receipt("a", 1, acked([log[0], log[9]]), unanswered=8)], TOPIC)
    Tally(said.stretches).add(log)
    [stretch] = said.stretches
    assert compare(stretch) is None
    assert (stretch.count, stretch.in_log, said.unanswered) == (2, 10, 8)


def test_what_came_through_a_spool_is_the_spools_whoever_forwarded_it() -> None:
    log = [logged(offset, "edge-before", "s1") for offset in range(4)] + [logged(4, "edge-now")]
    said = [receipt("edge-now", 1, acked(log[:4], "s1"), acked(log[4:]))]
    assert findings(said, log) == []
    assert findings(said, log[1:]) == [FindingClass.RECEIPT_MISSING]


def test_a_receipt_that_was_sent_again_counts_once_and_a_missing_one_is_shown() -> None:
    log = [logged(offset, "a") for offset in range(4)]
    first, third = receipt("a", 1, acked(log[:2])), receipt("a", 3, acked(log[2:]))
    said = told([first, first, third], TOPIC)
    assert said.receipts == 2
    assert said.gaps == {"a": (2,)}
    assert findings([first, first, third], log) == []


def test_a_value_that_nobody_can_read_is_nobodys_record() -> None:
    log = [Logged(0, None), Logged(1, b"{"), Logged(2, b"[]"), logged(3, "a")]
    tally = Tally(told([receipt("a", 1, acked(log[3:]))], TOPIC).stretches)
    tally.add(log)
    assert tally.unreceipted == 3


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 3), st.integers(0, 4))
def test_exactly_what_was_acknowledged_and_is_gone_is_found(seed: int, lost: int, extra: int) -> None:
    """Any interleaving of processes and spools, minutes whose ranges overlap, records without an answer."""
    chance = random.Random(seed)
    origins = [("a", ""), ("b", ""), ("a", "s1"), ("b", "s2")]
    log = [logged(offset, *chance.choice(origins)) for offset in range(60)]
    unanswered = set(chance.sample(range(60), extra))
    receipts = []
    for process in ("a", "b"):
        mine = {
            spool: [
                one
                for one in log
                if one.offset not in unanswered
                and (b'"%s"' % process.encode()) in (one.value or b"")
                and (one.headers[0][1].decode() if one.headers else "") == spool
            ]
            for spool in ("", "s1", "s2")
        }
        minutes = chance.randrange(1, 4)
        split = {spool: [chance.randrange(minutes) for _ in records] for spool, records in mine.items()}
        for minute in range(minutes):
            ranges = []
            for spool, records in mine.items():
                chosen = [one for one, its in zip(records, split[spool], strict=True) if its == minute]
                if chosen:
                    ranges.append(acked(chosen, spool))
            receipts.append(receipt(process, minute + 1, *ranges))
    assert findings(receipts, log) == []

    answered = [one.offset for one in log if one.offset not in unanswered]
    gone = set(chance.sample(answered, lost))
    said = told(receipts, TOPIC)
    Tally(said.stretches).add([one for one in log if one.offset not in gone])
    hidden = {(one.offset) for one in log if one.offset in unanswered}
    for stretch in said.stretches:
        inside = range(stretch.first_offset, stretch.last_offset + 1)
        own = [one for one in log if one.offset in inside and _origin(one) == stretch.origin]
        missing = sum(one.offset in gone for one in own)
        more = sum(one.offset in hidden for one in own)
        if missing > more:
            assert compare(stretch) is not None
        if not missing:
            assert compare(stretch) is None


def _origin(one: Logged) -> tuple[str, str]:
    if one.headers:
        return ("spool", one.headers[0][1].decode())
    return ("process", msgspec.json.decode(one.value or b"")["ingestid"])
