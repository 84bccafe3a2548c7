"""GSTIN: the 15 characters of a GST registration, checked to the last one.

2 digits         state code
10 characters    PAN of the holder: five letters, four digits, a letter
1 character      which registration of that PAN in the state: 1-9, then A-Z
Z
1 character      check character over the other fourteen
"""

from __future__ import annotations

import string
from dataclasses import dataclass

from services.invoicer.tax import states
from services.invoicer.tax.states import NAMES, OTHER_COUNTRY, State
from shared.domain.errors import Rejected

_ALPHABET = string.digits + string.ascii_uppercase
_LETTERS = frozenset(string.ascii_uppercase)
_DIGITS = frozenset(string.digits)

# What may stand at each position, and how to say it.
_SHAPE: tuple[tuple[frozenset[str], str], ...] = (
    *[(_DIGITS, "a digit of the state code")] * 2,
    *[(_LETTERS, "a letter of the PAN")] * 5,
    *[(_DIGITS, "a digit of the PAN")] * 4,
    (_LETTERS, "the last letter of the PAN"),
    (frozenset(_ALPHABET) - {"0"}, "the registration's number, 1-9 or A-Z"),
    (frozenset("Z"), "the letter Z"),
    (frozenset(_ALPHABET), "the check character, a digit or letter"),
)


@dataclass(frozen=True, slots=True)
class Gstin:
    """A checked GSTIN in upper case; made by `parse_gstin` alone."""

    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def state(self) -> State:
        """Where it is registered, which is the place of supply of a service to it."""
        return states.state(self.text[:2])

    @property
    def pan(self) -> str:
        return self.text[2:12]


def parse_gstin(text: str) -> Gstin:
    """The GSTIN in `text`, spaces around it and lower case forgiven.

    Raises `Rejected("invalid_gstin")` that names the first wrong position (from 1) and what belongs there.
    Registrations of another shape (UIN of embassies, TDS and TCS deductors, OIDAR) are refused.
    """
    gstin = text.strip()
    if not gstin.isascii():
        raise _invalid(gstin, "only letters A-Z and digits belong in it")
    gstin = gstin.upper()
    if len(gstin) != len(_SHAPE):
        raise _invalid(gstin, f"it has {len(gstin)} characters, not {len(_SHAPE)}")
    for position, (character, (allowed, meaning)) in enumerate(zip(gstin, _SHAPE, strict=True), start=1):
        if character not in allowed:
            raise _invalid(gstin, f"character {position} is {character!r}; there belongs {meaning}")
    if gstin[:2] not in NAMES or gstin[:2] == OTHER_COUNTRY:
        raise _invalid(gstin, f"characters 1 and 2 are {gstin[:2]}, which is not the code of a state")
    expected = check_character(gstin[:14])
    if gstin[14] != expected:
        # The right character is not told: a typing mistake elsewhere would be "mended" by copying it.
        raise _invalid(
            gstin, "character 15, the check character, does not fit the other fourteen; compare each of them"
        )
    return Gstin(gstin)


def check_character(first_14: str) -> str:
    """The 15th character: base-36 values times 1, 2, 1, 2, ..., quotient and remainder by 36 summed."""
    total = 0
    for index, character in enumerate(first_14):
        quotient, remainder = divmod(_ALPHABET.index(character) * (1 + index % 2), 36)
        total += quotient + remainder
    return _ALPHABET[-total % 36]


def _invalid(gstin: str, reason: str) -> Rejected:
    return Rejected("invalid_gstin", f"{gstin!r} is not a GSTIN: {reason}")
