"""Identity and fingerprint: what makes two events the same, and two payloads equal."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.identity import MAX_DEPTH, Fingerprint, identity_key, payload_fingerprint, read_data


def fingerprint(data: str, type: str = "t", subject: str = "s") -> int:
    return payload_fingerprint(type, subject, read_data(data.encode()))


def test_parts_of_an_identity_never_run_into_each_other() -> None:
    keys = {
        identity_key("p", True, "ab", "c"),
        identity_key("p", True, "a", "bc"),
        identity_key("pa", True, "b", "c"),
        identity_key("p", False, "ab", "c"),
        identity_key("", True, "pab", "c"),
    }
    assert len(keys) == 5
    assert {len(key) for key in keys} == {16}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}'),
        ('{"v": 1.50}', '{"v": 15e-1}'),
        ('{"v": 1.0}', '{"v": 1}'),
        ('{"v": 1e2}', '{"v": 100}'),
        ('{"v": -0.0}', '{"v": 0}'),
        ('{"v": 0e500}', '{"v": 0}'),
        ('{"v": "\\u0041"}', '{"v": "A"}'),
    ],
)
def test_spelling_does_not_matter(one: str, other: str) -> None:
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"v": 1}', '{"v": "1"}'),
        ('{"v": 0.1}', '{"v": 0.10000000000000000001}'),
        ('{"v": 9007199254740993}', '{"v": 9007199254740992}'),
        ('{"v": null}', "{}"),
        ('{"v": [1, 2]}', '{"v": [2, 1]}'),
    ],
)
def test_meaning_does(one: str, other: str) -> None:
    assert fingerprint(one) != fingerprint(other)


def test_type_and_subject_belong_to_what_an_event_says() -> None:
    assert len({fingerprint("1"), fingerprint("1", type="u"), fingerprint("1", subject="r")}) == 3


def test_numbers_are_never_rounded() -> None:
    read = read_data(b'{"a": 0.1, "b": 9999999999999999999, "c": 0.000000000000000001}')
    assert read == {"a": Decimal("0.1"), "b": 9999999999999999999, "c": Decimal("1E-18")}


def nested(depth: int) -> bytes:
    return b'{"a":' * (depth - 1) + b"[]" + b"}" * (depth - 1)


def test_nesting_has_a_limit_of_its_own_so_that_every_process_can_read_what_one_could() -> None:
    payload_fingerprint("t", "s", read_data(nested(MAX_DEPTH)))
    with pytest.raises(msgspec.DecodeError, match="nested"):
        read_data(nested(MAX_DEPTH + 1))


def test_brackets_inside_a_text_are_not_levels() -> None:
    assert read_data(json.dumps(["[" * 5000]).encode()) == ["[" * 5000]
    assert len(read_data(json.dumps([[1]] * 5000).encode())) == 5000


@pytest.mark.parametrize(
    "data", [b"NaN", b"-Infinity", b'"\\ud800"', b"1e99999999999999999999", b"\xff", b"", b"9" * 5000]
)
def test_what_cannot_be_read_exactly_is_an_error_and_never_a_crash(data: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeError)):
        read_data(data)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False) | st.text("aé\x00☃"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_writing_what_was_read_and_reading_it_again_changes_no_fingerprint(data: Any) -> None:
    encode = msgspec.json.Encoder(decimal_format="number").encode
    first = read_data(encode(data))
    assert payload_fingerprint("t", "s", first) == payload_fingerprint("t", "s", read_data(encode(first)))


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=20), st.randoms(use_true_random=False))
def test_the_fingerprint_of_a_set_needs_no_order(keys: list[bytes], random: Any) -> None:
    def of(members: list[bytes]) -> Fingerprint:
        total = Fingerprint()
        for key in members:
            total = total.with_key(key)
        return total

    shuffled = random.sample(keys, len(keys))
    middle = len(keys) // 2
    assert of(shuffled) == of(keys) == of(keys[:middle]) + of(keys[middle:])


@pytest.mark.parametrize("number", ["1." + "0" * 200_000, "0." + "1" * 101, "1e" + "0" * 200])
def test_a_number_nobody_needs_is_refused_at_once(number: str) -> None:
    began = time.perf_counter()
    with pytest.raises((msgspec.MsgspecError, ValueError)):
        read_data(f'{{"n":{number}}}'.encode())
    assert time.perf_counter() - began < 1.0  # it took 17 s when each digit was looked at alone
