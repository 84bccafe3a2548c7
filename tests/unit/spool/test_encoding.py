"""What is packed comes back byte for byte, and damage is seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.postgres.outbox import OutboxMessage
from shared.spool.encoding import fingerprint, pack, pack_acks, unpack, unpack_acks, unpack_places
from shared.spool.errors import SpoolBroken
from tests.support.spool import messages

some_bytes = st.none() | st.binary(max_size=40)
headers = st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=5)), max_size=3).map(tuple)
any_messages = st.lists(
    st.builds(OutboxMessage, st.sampled_from(["a", "b"]), some_bytes, some_bytes, headers), max_size=20
)
any_acks = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.none() | st.tuples(st.integers(0, 3), st.integers(0, 2**40))), max_size=30
)


@given(any_messages)
def test_messages_come_back_in_order_and_byte_for_byte(given: list[OutboxMessage]) -> None:
    block = pack(given)
    assert unpack(block.payload, block.digest, "row") == given
    assert block.count == len(given)


def test_a_changed_byte_is_seen_before_anything_is_read() -> None:
    block = pack(messages(0, 100))
    for at in (0, len(block.payload) // 2, len(block.payload) - 1):
        damaged = bytearray(block.payload)
        damaged[at] ^= 1
        with pytest.raises(SpoolBroken, match="row 7 does not have the checksum"):
            unpack(bytes(damaged), block.digest, "row 7")


@given(any_messages)
def test_the_fingerprint_does_not_know_the_order_but_adds_up(given: list[OutboxMessage]) -> None:
    half = len(given) // 2
    assert fingerprint(given) == fingerprint(given[::-1])
    assert fingerprint(given) == fingerprint(given[:half]) + fingerprint(given[half:])


def test_the_fingerprint_tells_key_from_value() -> None:
    assert fingerprint([OutboxMessage("t", b"ab", b"c")]) != fingerprint([OutboxMessage("t", b"a", b"bc")])


@given(any_acks)
def test_the_place_of_every_event_comes_back(given: list[tuple[str, tuple[int, int] | None]]) -> None:
    packed, acks = pack_acks([topic for topic, _ in given], [ack for _, ack in given])
    assert unpack_acks(packed, acks) == [None if ack is None else (topic, *ack) for topic, ack in given]


@given(any_acks)
def test_a_row_knows_the_highest_offset_of_each_partition(given: list[tuple[str, tuple[int, int] | None]]) -> None:
    packed, _ = pack_acks([topic for topic, _ in given], [ack for _, ack in given])
    highest: dict[tuple[str, int], int] = {}
    for topic, ack in given:
        if ack is not None:
            highest[topic, ack[0]] = max(highest.get((topic, ack[0]), 0), ack[1])
    assert {(topic, partition): offset for topic, partition, offset in unpack_places(packed)} == highest


def test_acks_of_a_busy_row_take_a_fraction_of_a_byte_per_event() -> None:
    packed, acks = pack_acks(["t"] * 5000, [(n % 4, 1_000_000 + n // 4) for n in range(5000)])
    assert len(packed) + len(acks) < 500
