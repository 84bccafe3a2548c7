"""A dead letter is the record byte for byte, and where and why it failed."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest

from shared.contracts import headers as names
from shared.contracts.topics import MAX_DEAD_LETTER_BYTES
from shared.domain.errors import Rejected
from shared.kafka.dead_letter import KEPT_BYTES, Reject, letter
from shared.kafka.records import Record

AT = datetime(2026, 10, 1, 12, tzinfo=UTC)


def record(*headers: tuple[str, bytes], key: bytes | None = b"k", value: bytes | None = b"\xff\x00v") -> Record:
    return Record("p.usage.raw.v1", 3, 77, 1_700_000_000_123, key, value, headers)


def _letter(of: Record, error: Rejected | None = None) -> dict[str, bytes]:
    return dict(letter(Reject(of, error or Rejected("bad_value", "why")), "khata.ingest", "ingest", AT).headers)


def test_it_keeps_key_value_and_headers_and_adds_all_of_dlq() -> None:
    own = (("twice", b"1"), ("content-type", b"\xfe"), ("twice", b"2"))
    made = letter(Reject(record(*own), Rejected("bad_value", "why")), "khata.ingest", "ingest", AT)
    assert (made.topic, made.key, made.value) == ("p.usage.raw.v1.dlq", b"k", b"\xff\x00v")
    assert made.headers[:3] == own
    added = dict(made.headers[3:])
    assert added.pop(names.DLQ_VERSION)
    assert added == {
        names.DLQ_TOPIC: b"p.usage.raw.v1",
        names.DLQ_PARTITION: b"3",
        names.DLQ_OFFSET: b"77",
        names.DLQ_TIMESTAMP: b"1700000000123",
        names.DLQ_GROUP: b"khata.ingest",
        names.DLQ_SERVICE: b"ingest",
        names.DLQ_ERROR_CLASS: b"Rejected",
        names.DLQ_ERROR_CODE: b"bad_value",
        names.DLQ_ERROR: b"why",
        names.DLQ_FAILED_AT: b"2026-10-01T12:00:00+00:00",
        names.DLQ_ATTEMPT: b"1",
    }


def test_null_key_and_value_stay_null() -> None:
    made = letter(Reject(record(key=None, value=None), Rejected("malformed", "why")), "g", "s", AT)
    assert (made.key, made.value) == (None, None)


def test_a_redriven_one_counts_its_attempts_and_keeps_its_first_timestamp() -> None:
    again = _letter(record((names.DLQ_ATTEMPT, b"2"), (names.DLQ_TIMESTAMP, b"42"), (names.DLQ_ERROR, b"old")))
    assert (again[names.DLQ_ATTEMPT], again[names.DLQ_TIMESTAMP], again[names.DLQ_ERROR]) == (b"3", b"42", b"why")


@pytest.mark.parametrize("nonsense", [b"", b"abc", b"-1", b"\xff\xfe", "٣".encode(), b"9" * 5000, b"1.5"])
def test_headers_that_anyone_may_write_never_stop_the_reader(nonsense: bytes) -> None:
    made = _letter(record((names.DLQ_ATTEMPT, nonsense), (names.DLQ_TIMESTAMP, nonsense)))
    assert (made[names.DLQ_ATTEMPT], made[names.DLQ_TIMESTAMP]) == (b"1", b"1700000000123")


def test_a_long_error_is_cut_to_a_kilobyte_of_whole_characters() -> None:
    text = _letter(record(), Rejected("bad_value", "x" + "₹" * 2000))[names.DLQ_ERROR]
    assert 1020 <= len(text) <= 1024
    assert set(text.decode()) == {"x", "₹"}


def test_the_digest_tells_records_apart_that_only_look_alike() -> None:
    one = record()
    others = [
        record(value=None),
        record(value=b""),
        record(key=None),
        Record(one.topic, 3, 78, one.timestamp_ms, one.key, one.value, ()),
        Record(one.topic, 3, 77, one.timestamp_ms + 1, one.key, one.value, ()),
        record(key=b"k\xff", value=b"\x00v"),
    ]
    assert len({each.digest() for each in [one, *others]}) == 7
    assert record(("h", b"1")).digest() == one.digest()


def test_a_value_beyond_every_limit_is_kept_as_its_beginning_with_length_and_digest() -> None:
    value = bytes(range(256)) * (KEPT_BYTES // 256 + 4096)
    found = letter(Reject(record(value=value), Rejected("too_large", "no")), "khata.ingest", "ingest", AT)
    assert found.value == value[:KEPT_BYTES]
    assert names.first(found.headers, names.DLQ_TRUNCATED_FROM) == str(len(value)).encode()
    assert names.first(found.headers, names.DLQ_SHA256) == hashlib.sha256(value).hexdigest().encode()
    assert len(found.value) < MAX_DEAD_LETTER_BYTES
