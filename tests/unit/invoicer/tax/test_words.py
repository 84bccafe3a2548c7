"""Rupees in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.invoicer.tax.words import number_in_words, rupees_in_words


@pytest.mark.parametrize(
    ("paise", "words"),
    [
        (561_785, "Rupees Five Thousand Six Hundred Seventeen and Eighty-Five Paise Only"),
        (0, "Rupees Zero Only"),
        (1, "Rupees Zero and One Paisa Only"),
        (100, "Rupees One Only"),
        (10_000_000, "Rupees One Lakh Only"),
        (11_910_00, "Rupees Eleven Thousand Nine Hundred Ten Only"),
        (
            12_34_56_789_50,
            "Rupees Twelve Crore Thirty-Four Lakh Fifty-Six Thousand Seven Hundred Eighty-Nine and Fifty Paise Only",
        ),
        (1_23_456_00_00_000_00, "Rupees One Lakh Twenty-Three Thousand Four Hundred Fifty-Six Crore Only"),
    ],
)
def test_an_amount_is_written_as_indian_invoices_do(paise: int, words: str) -> None:
    assert rupees_in_words(paise) == words


def test_a_negative_amount_has_no_words() -> None:
    with pytest.raises(ValueError, match="positive"):
        rupees_in_words(-1)


VALUES = {number_in_words(n): n for n in range(100)}


@given(st.integers(0, 10**14 - 1))
def test_the_words_say_the_number(number: int) -> None:
    def read(words: list[str]) -> int:
        for name, scale in (("Crore", 10**7), ("Lakh", 10**5), ("Thousand", 1000), ("Hundred", 100)):
            if name in words:
                at = words.index(name)
                return read(words[:at]) * scale + (read(words[at + 1 :]) if words[at + 1 :] else 0)
        return VALUES[" ".join(words)]

    assert read(number_in_words(number).split()) == number
