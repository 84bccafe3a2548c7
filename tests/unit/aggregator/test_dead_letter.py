"""Reading a dead letter takes anything, loses nothing, and shows nothing that a terminal would obey."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.aggregator.dead_letters import keep
from services.aggregator.dead_letters.letter import Letter, read_letter
from services.aggregator.dead_letters.page import FIELDS, page
from services.aggregator.dead_letters.redrive import BATCH_BYTES, batches
from services.aggregator.dead_letters.store import Found
from services.aggregator.dead_letters.text import as_text, lines, safe
from shared.contracts import headers as names
from shared.contracts.topics import Names
from shared.domain.errors import Rejected
from shared.kafka.dead_letter import Reject, letter
from shared.kafka.records import Record
from shared.observability import names as metrics

AT = datetime(2026, 10, 1, 12, tzinfo=UTC)
TAKEN_MS = 1_790_000_000_123
WRITTEN_MS = 1_790_856_000_000
P = Names("p.")


def rejected(
    value: bytes | None, topic: str = "p.usage.raw.v1", *headers: tuple[str, bytes], offset: int = 77
) -> Record:
    """The letter about a record, as it stands in the dead-letter topic."""
    of = Record(topic, 3, offset, TAKEN_MS, b"k", value, headers)
    made = letter(Reject(of, Rejected("bad_value", "why")), "p.khata.ingest.door", "ingest", AT)
    return Record(made.topic, 0, 5, WRITTEN_MS, made.key, made.value, made.headers)


def read(record: Record) -> Letter:
    return read_letter(record, P)


def test_it_names_the_record_that_failed_and_why() -> None:
    found = read(rejected(b"\xff\x00v"))
    assert (found.topic, found.partition, found.offset, found.origin_known) == ("p.usage.raw.v1", 3, 77, True)
    assert (found.code, found.error, found.error_class, found.attempt) == ("bad_value", "why", "Rejected", 1)
    assert (found.group, found.service, found.failed_at) == ("p.khata.ingest.door", "ingest", AT)
    assert found.original_at == datetime.fromtimestamp(TAKEN_MS / 1000, UTC)
    assert (found.key, found.value, found.letter_partition, found.letter_offset) == (b"k", b"\xff\x00v", 0, 5)


def test_a_letter_delivered_again_is_the_same_and_a_record_of_a_topic_made_anew_is_not() -> None:
    first = read(rejected(b"v"))
    again = Record("p.usage.raw.v1.dlq", 1, 900, WRITTEN_MS + 1, b"k", b"v", rejected(b"v").headers)
    assert read(again).digest() == first.digest()
    assert read(rejected(b"w")).digest() != first.digest()
    assert read(rejected(None)).digest() != read(rejected(b"")).digest()


def test_without_believable_headers_it_is_told_apart_by_its_own_place() -> None:
    spoofed = {names.DLQ_TOPIC: b"p.payments.webhooks.v1", names.DLQ_PARTITION: b"1", names.DLQ_OFFSET: b"2"}
    beyond = spoofed | {names.DLQ_TOPIC: b"p.usage.raw.v1", names.DLQ_PARTITION: b"%d" % 2**31}
    for headers in ({}, spoofed, beyond):
        found = read(Record("p.usage.raw.v1.dlq", 2, 8, WRITTEN_MS, None, b"v", tuple(headers.items())))
        assert (found.topic, found.partition, found.offset, found.origin_known) == ("p.usage.raw.v1", 2, 8, False)
        assert found.failed_at == datetime.fromtimestamp(WRITTEN_MS / 1000, UTC)


@pytest.mark.parametrize(
    ("record", "project"),
    [
        (rejected(b"{", "p.usage.raw.acme-app.v1"), "acme-app"),
        (rejected(b'{"project":"zenith-app"}'), "zenith-app"),
        (rejected(b"{}", "p.usage.raw.v1", ("ce_project", b"acme-app"), ("ce_id", b"1")), "acme-app"),
        (rejected(b'{"project_id":"acme-app"}', "p.keys.activity.v1"), "acme-app"),
        (rejected(b'{"project":7}'), None),
        (rejected(b'{"project":"../etc"}'), None),
        (rejected(b'{"project":"a\\u0000"}'), None),
        (rejected(None), None),
    ],
)
def test_the_project_is_read_where_it_can_be(record: Record, project: str | None) -> None:
    assert read(record).project == project


@pytest.mark.parametrize(
    ("record", "at"),
    [
        (rejected(b'{"time":"2026-09-30T23:59:59+05:30"}'), datetime(2026, 9, 30, 18, 29, 59, tzinfo=UTC)),
        (rejected(b"1", "p.usage.raw.v1", ("ce_time", b"2026-09-01T00:00:00Z")), datetime(2026, 9, 1, tzinfo=UTC)),
        (rejected(b"{}"), datetime.fromtimestamp(TAKEN_MS / 1000, UTC)),
        (rejected(b'{"mode":"test"}'), None),
        (rejected(b'{"live":false,"time":"2026-09-01T00:00:00Z"}', "p.usage.events.v1"), None),
        (rejected(b'{"time":"2026-09-01T00:00:00"}'), None),
        (rejected(b'{"time":"soon"}'), None),
        (rejected(b'{"time":"0001-01-01T00:00:00+23:59"}'), None),
        (rejected(b'{"time":"9999-12-31T23:59:59-23:59"}'), None),
        (rejected(b'{"time":"2026-09-01T00:00:00Z"}', "p.payments.webhooks.v1"), None),
    ],
)
def test_the_month_of_an_event_is_known_only_where_it_would_be_billed(record: Record, at: datetime | None) -> None:
    assert read(record).event_at == at


@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from([value for name, value in vars(names).items() if name.startswith("DLQ_")]) | st.text(),
            st.binary() | st.integers().map(lambda number: b"%d" % number),
        )
    ),
    value=st.none() | st.binary() | st.recursive(st.text(), st.lists).map(lambda found: repr(found).encode("utf-8")),
    timestamp_ms=st.integers(-1, 2**63 - 1),
)
def test_whatever_stands_in_a_dead_letter_topic_is_read(
    headers: list[tuple[str, bytes]], value: bytes | None, timestamp_ms: int
) -> None:
    found = read(Record("p.usage.raw.v1.dlq", 0, 1, timestamp_ms, value, value, tuple(headers)))
    assert (found.key, found.value, found.headers) == (value, value, tuple(headers))
    assert len(found.digest()) == 32
    for text in (found.group, found.service, found.version, found.error_class, found.code, found.error, found.damaged):
        assert "\x00" not in text
        assert len(text.encode()) <= 4096
    assert 1999 < found.failed_at.year < 10_000
    assert all("\x1b" not in line for line in lines(found.value))


def test_nothing_that_moves_a_cursor_or_turns_a_line_round_is_shown() -> None:
    hostile = "a\x1b[2J\r\x07\x9b31m\u202e\u2028b\ud800\N{ZERO WIDTH SPACE}"
    assert safe(hostile) == r"a\x1b[2J\r\x07\x9b31m\u202e\u2028b\ud800\u200b"
    assert safe("₹ 1,00,000 नमस्ते [red]") == "₹ 1,00,000 नमस्ते [red]"


def test_a_value_is_text_where_it_is_text_and_hex_where_it_is_not() -> None:
    assert list(lines(b'{"a":\n"\xe2\x82\xb9\x1b"}')) == ['  {"a":', '  "₹\\x1b"}']
    assert list(lines(b"A\x00\xff")) == ["  00000000  " + "41 00 ff".ljust(47) + "  A.."]
    assert list(lines(None)) == ["  (none)"]
    assert as_text(b"\xff") is None
    assert list(lines(b"x" * 70_000))[-1] == "  ... and 4464 bytes more: --output json has them all"
    assert list(lines(b"\x00" * 5_000))[-1] == "  ... and 904 bytes more: --output json has them all"


def test_a_page_indents_what_is_not_ours_and_says_what_is_special() -> None:
    row: dict[str, Any] = dict.fromkeys(FIELDS) | {"id": 7, "state": "open", "error": "bad\x1b[1m", "key": None}
    row |= {"value": b"x\ndead letter 8, dropped", "truncated_from": 99, "damaged": "", "origin_known": False}
    row |= {"sending_since": AT, "sending_by": "os:asha"}
    shown = list(page(row, (("h\x1b", b"\x00"), ("dlq.x", b"1"))))
    assert shown[0] == "dead letter 7, open"
    assert [line for line in shown[1:] if line.startswith("dead letter")] == []
    whole = "\n".join(shown)
    assert "\x1b" not in whole
    for text in ("may have been sent", "only the beginning of 99 bytes", "does not say where", r"h\x1b: 0x00"):
        assert text in whole
    assert "dlq.x" not in whole


def test_batches_hold_few_letters_and_few_bytes() -> None:
    sizes = [Found(n, 10) for n in range(1_200)] + [Found(2_000, BATCH_BYTES + 1), Found(2_001, 1)]
    made = list(batches(sizes))
    assert [len(one) for one in made] == [500, 500, 200, 1, 1]
    assert [id for one in made for id in one] == [one.id for one in sizes]
    assert list(batches([])) == []


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("p.usage.raw.v1.dlq", True),
        ("p.payments.webhooks.v1.dlq", True),
        ("p.usage.raw.acme-app.v1.dlq", True),
        ("p.usage.raw.v1", False),
        ("usage.raw.v1.dlq", False),
        ("q.usage.raw.acme-app.v1.dlq", False),
        ("p.somebody.elses.dlq", False),
    ],
)
def test_only_dead_letter_topics_of_this_installation_are_read(name: str, ours: bool) -> None:
    assert keep.is_ours(name, P) is ours


def test_gauges_name_no_project_and_go_back_to_zero() -> None:
    told = keep.tell(
        [
            ("p.usage.raw.acme-app.v1", "bad_value", 2, 10.0),
            ("p.usage.raw.zenith-app.v1", "bad_value", 1, 90.0),
            ("p.usage.events.v1", "malformed", 1, 5.0),
        ],
        P,
        set(),
    )
    assert told == {("usage.raw.<project>.v1", "bad_value"), ("usage.events.v1", "malformed")}
    many = ("usage.raw.<project>.v1", "bad_value")
    assert metrics.DEAD_LETTERS_OPEN.labels(*many)._value.get() == 3
    assert metrics.DEAD_LETTER_OLDEST.labels(*many)._value.get() == 90
    assert keep.tell([], P, told) == set()
    assert metrics.DEAD_LETTERS_OPEN.labels(*many)._value.get() == 0
    assert metrics.DEAD_LETTER_OLDEST.labels(*many)._value.get() == 0
