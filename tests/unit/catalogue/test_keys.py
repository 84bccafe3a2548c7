"""API keys: unguessable, self-checking, and never repeated in an error or a log."""

from __future__ import annotations

import pytest

from shared.catalogue import keys
from shared.domain.errors import Rejected

PEPPER = b"p" * 32


def test_a_key_is_read_back_and_matches_its_hash_only() -> None:
    text, made = keys.make(live=True)
    parsed = keys.parse(text)
    assert parsed == made
    stored = keys.hash_secret(PEPPER, parsed)
    assert keys.matches(PEPPER, parsed, stored)
    assert not keys.matches(b"q" * 32, parsed, stored)
    assert not keys.matches(PEPPER, keys.make(live=True)[1], stored)


def test_another_id_with_the_same_secret_does_not_match() -> None:
    _, made = keys.make(live=True)
    moved = keys.ParsedKey("0" * 16, True, made.secret)
    assert not keys.matches(PEPPER, moved, keys.hash_secret(PEPPER, made))


def test_every_single_typo_is_noticed_without_a_look_up() -> None:
    text, _ = keys.make(live=False)
    for place in range(len("kh_test_"), len(text)):
        typo = text[:place] + ("x" if text[place] != "x" else "y") + text[place + 1 :]
        with pytest.raises(Rejected):
            keys.parse(typo)


def test_test_and_live_cannot_be_exchanged() -> None:
    text, _ = keys.make(live=False)
    with pytest.raises(Rejected):
        keys.parse(text.replace("kh_test_", "kh_live_"))


@pytest.mark.parametrize(
    "text", ["", "kh_live_", "Bearer", "kh_live_" + "a" * 65 + "\n", "kh_live_" + "é" * 65, "x" * 9999]
)
def test_what_is_no_key_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(Rejected) as refused:
        keys.parse(text)
    assert refused.value.code == "invalid_key"
    assert len(text) < 9 or text not in str(refused.value)


def test_the_secret_is_in_no_text_of_a_parsed_key() -> None:
    _, made = keys.make(live=True)
    assert made.secret not in repr(made)
    assert made.secret not in f"{made}"
