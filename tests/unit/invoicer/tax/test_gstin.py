"""GSTINs are checked to the last character."""

from __future__ import annotations

import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.invoicer.tax.gstin import check_character, parse_gstin
from services.invoicer.tax.states import NAMES, OTHER_COUNTRY
from shared.domain.errors import Rejected

VALID = ["27AAPFU0939F1ZV", "24AABCJ1087G1ZT", "29AACCR7832C1ZD", "29AABCU9603R1ZJ"]


@pytest.mark.parametrize("text", VALID)
def test_a_valid_gstin_is_accepted(text: str) -> None:
    assert str(parse_gstin(text)) == text
    assert check_character(text[:14]) == text[14]


def test_it_tells_its_state_and_pan() -> None:
    gstin = parse_gstin(" 27aapfu0939f1zv\n")
    assert (gstin.state.code, gstin.state.name, gstin.pan) == ("27", "Maharashtra", "AAPFU0939F")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("27AAPFU0939F1ZO", "character 15"),
        ("29XAbbA4369J1PA", "character 14 is 'P'; there belongs the letter Z"),
        ("27AAPFU0939F1Z", "14 characters, not 15"),
        ("", "0 characters"),
        ("2XAAPFU0939F1ZV", "character 2 is 'X'; there belongs a digit of the state code"),
        ("27AA1FU0939F1ZV", "character 5 is '1'; there belongs a letter of the PAN"),
        ("27AAPFUO939F1ZV", "character 8 is 'O'; there belongs a digit of the PAN"),
        ("27AAPFU0939F0ZV", "character 13 is '0'"),
        ("28AAPFU0939F1ZV", "characters 1 and 2 are 28"),
        ("96AAPFU0939F1ZV", "characters 1 and 2 are 96"),
        ("२७AAPFU0939F1ZV", "only letters A-Z and digits"),
    ],
)
def test_an_invalid_gstin_says_what_is_wrong_and_where(text: str, reason: str) -> None:
    with pytest.raises(Rejected, match=reason) as rejected:
        parse_gstin(text)
    assert rejected.value.code == "invalid_gstin"


GSTINS = st.builds(
    lambda state, letters, digits, last, entity: f"{state}{letters}{digits:04}{last}{entity}Z",
    st.sampled_from(sorted(NAMES.keys() - {OTHER_COUNTRY})),
    st.text(string.ascii_uppercase, min_size=5, max_size=5),
    st.integers(0, 9999),
    st.sampled_from(string.ascii_uppercase),
    st.sampled_from("123456789" + string.ascii_uppercase),
).map(lambda first: first + check_character(first))


@given(GSTINS, st.integers(0, 14), st.sampled_from(string.digits + string.ascii_uppercase))
def test_one_wrong_character_is_always_found(text: str, position: int, character: str) -> None:
    assume(text[position] != character)
    assert parse_gstin(text).text == text
    with pytest.raises(Rejected):
        parse_gstin(text[:position] + character + text[position + 1 :])
