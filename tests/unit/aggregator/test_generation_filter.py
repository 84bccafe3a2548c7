"""A filter never says no for a key that is in it, lets few others pass, and is none when its file is not it."""

from __future__ import annotations

import os
import random
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.aggregator.generations import files
from services.aggregator.generations.bloom import BITS_PER_KEY, MOST_BITS, Bloom, bits_for, words
from services.aggregator.generations.files import HEADER_BYTES, NoFilter
from services.aggregator.generations.filters import Filters
from services.aggregator.generations.store import Generation, fingerprint_of
from shared.domain.identity import Fingerprint

key = st.binary(min_size=16, max_size=16) | st.sampled_from([bytes(16), b"\xff" * 16, b"\xff" * 8 + bytes(8)])
KEYS = [random.Random(7).randbytes(16) for _ in range(1_000)]


def over(keys: list[bytes], sized_for: int | None = None) -> Bloom:
    bloom = Bloom.over(len(keys) if sized_for is None else sized_for)
    bloom.add(words(keys))
    return bloom


def generation(keys: list[bytes], id: int = 3) -> Generation:
    fingerprint = Fingerprint()
    for one in keys:
        fingerprint = fingerprint.with_key(one)
    return Generation(id, True, len(keys), fingerprint)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The file of KEYS in its place."""
    place = files.path_of(tmp_path, generation(KEYS))
    files.put(files.write(tmp_path, generation(KEYS), over(KEYS)), place)
    return place


def change(path: Path, content: bytes) -> None:
    """In another file under the same name, as everything that writes files does."""
    path.unlink()
    path.write_bytes(content)
    path.chmod(0o444)


@given(known=st.lists(key, min_size=1, max_size=300), asked=st.lists(key, max_size=50), size=st.integers(1, 400))
def test_a_known_key_always_passes_however_many_there_are_for_the_size(
    known: list[bytes], asked: list[bytes], size: int
) -> None:
    bloom = over(known, size)
    batch = [*asked, *known]
    passed = set(bloom.maybe(words(batch)).tolist())
    assert passed >= {place for place, one in enumerate(batch) if one in set(known)}
    assert bloom.maybe(words([])).tolist() == []


@given(chunks=st.lists(st.lists(key, max_size=40), max_size=6))
def test_a_filter_made_in_chunks_is_the_one_made_at_once(chunks: list[list[bytes]]) -> None:
    keys = [one for chunk in chunks for one in chunk]
    at_once, in_chunks = over(keys, 100), Bloom.over(100)
    for chunk in chunks:
        in_chunks.add(words(chunk))
    assert in_chunks.bits.tobytes() == at_once.bits.tobytes()


def test_of_unknown_keys_four_in_a_thousand_pass() -> None:
    dice = np.random.default_rng(11)
    known, unknown = (dice.integers(0, 2**64, (200_000, 2), np.uint64) for _ in range(2))
    bloom = Bloom.over(len(known))
    bloom.add(known)
    assert len(bloom.maybe(known)) == len(known)
    rate = len(bloom.maybe(unknown)) / len(unknown)
    assert 0.0030 < rate < 0.0045  # (1 - e^(-6/12))^6 = 0.0037
    assert bloom.bits.nbytes == 200_000 * BITS_PER_KEY // 8


@given(keys=st.integers(0, 2**40))
def test_a_size_is_whole_words_and_never_more_than_a_position_reaches(keys: int) -> None:
    assert bits_for(keys) % 64 == 0
    assert min(keys * BITS_PER_KEY, MOST_BITS) <= bits_for(keys) <= MOST_BITS


@given(keys=st.lists(key, max_size=100))
def test_a_fingerprint_of_many_is_that_of_each(keys: list[bytes]) -> None:
    assert fingerprint_of(words(keys)) == generation(keys).fingerprint
    assert all(UUID(bytes=one).bytes == one for one in keys)  # as the database holds them


def test_a_file_holds_the_filter_and_is_mapped(written: Path) -> None:
    found = files.read(written.parent, generation(KEYS))
    assert isinstance(found, Bloom)
    assert found.bits.tobytes() == over(KEYS).bits.tobytes()
    assert not found.bits.flags.writeable
    assert len(found.maybe(words(KEYS))) == len(KEYS)
    assert list(written.parent.iterdir()) == [written]  # nothing else is left
    written.unlink()
    assert len(found.maybe(words(KEYS))) == len(KEYS)  # it is held until it is let go


def test_no_file_is_no_filter(tmp_path: Path) -> None:
    assert files.read(tmp_path / "none", generation(KEYS)) is NoFilter.MISSING


@settings(max_examples=200)
@given(bit=st.integers(0, (HEADER_BYTES + bits_for(len(KEYS)) // 8) * 8 - 1))
def test_a_flipped_bit_anywhere_is_no_filter(tmp_path_factory: pytest.TempPathFactory, bit: int) -> None:
    folder = tmp_path_factory.getbasetemp() / "flipped"
    folder.mkdir(exist_ok=True)
    place = files.path_of(folder, generation(KEYS))
    files.put(files.write(folder, generation(KEYS), over(KEYS)), place)
    content = bytearray(place.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    change(place, bytes(content))
    assert files.read(folder, generation(KEYS)) is NoFilter.DAMAGED


@pytest.mark.parametrize("left", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 8, -1, -8])
def test_a_file_that_is_cut_is_no_filter(written: Path, left: int) -> None:
    change(written, written.read_bytes()[:left])
    assert files.read(written.parent, generation(KEYS)) is NoFilter.DAMAGED


def test_a_file_that_goes_on_is_no_filter(written: Path) -> None:
    change(written, written.read_bytes() + bytes(8))
    assert files.read(written.parent, generation(KEYS)) is NoFilter.DAMAGED


def test_a_filter_of_other_keys_or_another_generation_is_foreign_whatever_its_name(written: Path) -> None:
    others = [one[::-1] for one in KEYS]
    for wanted in (generation(KEYS, 4), generation(others), generation(KEYS[:-1])):
        place = files.path_of(written.parent, wanted)
        place.write_bytes(written.read_bytes())
        place.chmod(0o444)
        assert files.read(written.parent, wanted) is NoFilter.FOREIGN


def test_a_file_that_another_account_may_write_or_that_is_a_link_is_no_filter(written: Path) -> None:
    written.chmod(0o464)
    assert files.read(written.parent, generation(KEYS)) is NoFilter.UNSAFE
    written.chmod(0o444)
    elsewhere = written.rename(written.with_name("elsewhere"))
    written.symlink_to(elsewhere)
    assert files.read(written.parent, generation(KEYS)) is NoFilter.UNSAFE
    written.unlink()
    written.mkdir()
    assert files.read(written.parent, generation(KEYS)) is NoFilter.UNSAFE


def test_what_a_killed_builder_left_is_removed_by_the_next_and_nothing_else(written: Path) -> None:
    part = files.write(written.parent, generation(KEYS), over(KEYS))
    other = files.write(written.parent, generation(KEYS, 4), over(KEYS))
    files.prepare(written.parent, generation(KEYS))
    assert set(written.parent.iterdir()) == {written, other}
    assert not part.exists()


def test_filters_are_taken_up_let_go_and_told_as_missing(written: Path) -> None:
    filters, third, fourth = Filters(written.parent), generation(KEYS), generation(KEYS, 4)
    open_one = Generation(5, False)
    assert filters.of(third) is None
    assert filters.look([third, fourth, open_one]) == [fourth]
    assert filters.of(third) is not None
    assert (filters.of(fourth), filters.of(open_one)) == (None, None)
    # The same number over other keys, as after a restore, is another generation.
    assert filters.of(generation(KEYS[:-1])) is None
    os.unlink(written)
    assert filters.look([third]) == []  # held
    assert filters.look([fourth]) == [fourth]
    assert filters.look([third]) == [third]  # let go in between
    assert Filters().look([third]) == [third]
