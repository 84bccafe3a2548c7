"""Segments give back every record byte for byte, and notice a changed byte."""

from __future__ import annotations

from datetime import UTC, datetime

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.errors import Fatal
from shared.kafka.records import Record
from shared.usage.segment import Disposition, from_letters, letters, pack, unpack

AT = datetime(2026, 10, 1, tzinfo=UTC)

bytes_or_none = st.none() | st.binary(max_size=40)
records = st.lists(
    st.builds(
        Record,
        topic=st.just("t"),
        partition=st.just(2),
        offset=st.integers(0, 2**62),
        timestamp_ms=st.integers(0, 2**41),
        key=bytes_or_none,
        value=bytes_or_none,
        headers=st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=5)), max_size=3).map(tuple),
    ),
    min_size=1,
    max_size=8,
)


@given(records)
def test_what_goes_in_comes_out(given_records: list[Record]) -> None:
    segment = pack(given_records, [None] * len(given_records))
    assert unpack("t", 2, segment.payload, segment.sha256) == given_records


def test_a_segment_knows_its_range_and_the_times_of_what_could_be_decoded() -> None:
    later = AT.replace(day=2)
    made = [Record("t", 2, offset, 1, None, b"v", ()) for offset in (5, 7, 9)]
    segment = pack(made, [later, None, AT])
    assert (segment.first_offset, segment.last_offset, segment.record_count) == (5, 9, 3)
    assert (segment.earliest, segment.latest) == (AT, later)
    assert pack(made, [None] * 3).earliest is None


def test_every_changed_byte_is_noticed() -> None:
    segment = pack([Record("t", 2, 1, 1, b"key", b"value" * 9, (("h", b"1"),))], [AT])
    for place in range(len(segment.payload)):
        damaged = bytearray(segment.payload)
        damaged[place] ^= 0x20
        try:
            records = unpack("t", 2, bytes(damaged), segment.sha256)
        except Fatal:
            continue
        # Some bytes of the frame's header carry no content; what is given back is what was written, at least.
        assert records == unpack("t", 2, segment.payload, segment.sha256)
        assert place < 8
    other = bytes(cramjam.zstd.compress(b"\x90"))
    with pytest.raises(Fatal, match="checksum"):
        unpack("t", 2, other, segment.sha256)


def test_letters_of_dispositions_are_stored_and_must_never_change() -> None:
    assert letters(tuple(Disposition)) == b"cdxratuk"
    assert from_letters(b"cdxratuk") == tuple(Disposition)
    with pytest.raises(ValueError, match="q"):
        from_letters(b"q")
