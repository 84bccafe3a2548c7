"""Rupees in words, as Indian invoices print them: crore, lakh, thousand."""

from __future__ import annotations

# fmt: off
_BELOW_TWENTY = (
    "Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve",
    "Thirteen", "Fourteen", "Fifteen", "Sixteen", "Seventeen", "Eighteen", "Nineteen",
)
# fmt: on
_TENS = ("", "", "Twenty", "Thirty", "Forty", "Fifty", "Sixty", "Seventy", "Eighty", "Ninety")
_SCALES = ((10_000_000, "Crore"), (100_000, "Lakh"), (1_000, "Thousand"), (100, "Hundred"))


def rupees_in_words(paise: int) -> str:
    """561785 -> "Rupees Five Thousand Six Hundred Seventeen and Eighty-Five Paise Only".

    `paise` is an amount in INR minor units. Raises ValueError when it is negative: a credit note states a
    positive amount of its own.
    """
    if paise < 0:
        raise ValueError(f"{paise} paise is negative; a document states a positive amount")
    rupees, rest = divmod(paise, 100)
    parts = [f"Rupees {number_in_words(rupees)}"]
    if rest:
        parts.append(f"and {number_in_words(rest)} {'Paisa' if rest == 1 else 'Paise'}")
    return " ".join([*parts, "Only"])


def number_in_words(number: int) -> str:
    """A whole number, zero or more, in the Indian system; above a crore of crores "... Crore Crore"."""
    if number < 20:
        return _BELOW_TWENTY[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] if ones == 0 else f"{_TENS[tens]}-{_BELOW_TWENTY[ones]}"
    scale, name = next((scale, name) for scale, name in _SCALES if number >= scale)
    count, rest = divmod(number, scale)
    words = f"{number_in_words(count)} {name}"
    return words if rest == 0 else f"{words} {number_in_words(rest)}"
