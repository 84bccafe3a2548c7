"""Exact money: minor units as `int`, everything finer as `Decimal`, one rounding per amount.

Rounding is half-up, away from zero, so an amount and its reversal always cancel. Nothing here uses the
caller's decimal context: its 28 digits are fewer than NUMERIC(38,12) times a quantity needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import (
    ROUND_05UP,
    ROUND_HALF_UP,
    Context,
    Decimal,
    DivisionByZero,
    FloatOperation,
    Inexact,
    InvalidOperation,
    Overflow,
    localcontext,
)
from fractions import Fraction
from functools import lru_cache

from babel import Locale
from babel.numbers import NumberPattern, parse_pattern

from shared.domain.currencies import EXPONENTS
from shared.domain.errors import Rejected

ZERO = Decimal(0)

_ERRORS = [InvalidOperation, DivisionByZero, Overflow, FloatOperation]

EXACT = Context(prec=60, rounding=ROUND_HALF_UP, traps=[*_ERRORS, Inexact])
"""For sums and products that must lose nothing: a lost digit raises `decimal.Inexact`, and so does a float.

Use as `with localcontext(EXACT):`, which works on a copy; a context shared by threads would mix their flags.
"""

_ROUNDING = Context(prec=60, rounding=ROUND_HALF_UP, traps=_ERRORS)
# ROUND_05UP keeps a quotient from ever landing on a tie or an exact value that it is not: rounding it
# again, half-up, to fewer digits gives what rounding the true quotient once would have given.
_QUOTIENT = Context(prec=60, rounding=ROUND_05UP, traps=_ERRORS)


def exponent(currency: str) -> int:
    """Decimal digits of the minor unit of `currency` (ISO 4217).

    Raises `Rejected("unknown_currency")` for a code that is not active, or not upper case.
    """
    try:
        return EXPONENTS[currency]
    except KeyError:
        raise Rejected(
            "unknown_currency", f"{currency!r} is not an active ISO 4217 currency code; write it like INR"
        ) from None


def round_half_up(value: Decimal) -> int:
    """Nearest integer, a half going away from zero: 2.5 -> 3, -2.5 -> -3. Raises ValueError for NaN and infinity."""
    if not value.is_finite():
        raise ValueError(f"{value} is not an amount")
    with localcontext(_ROUNDING):
        return int(value.quantize(Decimal(1)))


def to_minor(amount: Decimal, currency: str) -> int:
    """Minor units of `amount` (major unit), rounded once, half-up away from zero.

    Raises `Rejected("unknown_currency")`, and ValueError for NaN and infinity.
    """
    if not amount.is_finite():
        raise ValueError(f"{amount} is not an amount")
    with localcontext(EXACT):
        scaled = amount.scaleb(exponent(currency))
    return round_half_up(scaled)


def to_major(minor: int, currency: str) -> Decimal:
    """`minor` in the major unit, with exactly the currency's digits: (561785, INR) -> Decimal("5617.85")."""
    with localcontext(EXACT):
        return Decimal(minor).scaleb(-exponent(currency))


def to_decimal(value: Fraction) -> Decimal:
    """`value` to 60 digits, safe to round once more: exact where it ends, else never on a tie it is not on."""
    with localcontext(_QUOTIENT):
        return Decimal(value.numerator) / Decimal(value.denominator)


def to_stored(amount: Decimal) -> Decimal:
    """`amount` with the 12 decimals of NUMERIC(38,12); `to_minor` of it and of `amount` are the same.

    Raises `decimal.InvalidOperation` beyond 26 integer digits, which the column does not hold.
    """
    with localcontext(_QUOTIENT) as context:
        context.prec = 38
        return amount.quantize(Decimal("1e-12"))


def spread(total_minor: int, weights: Sequence[int | Decimal]) -> list[int]:
    """Split `total_minor` over `weights` by largest remainder; the shares sum to it exactly.

    Of equal remainders the earlier one is served first, so the same input gives the same shares for ever.
    With integer weights and |total| <= their sum no share exceeds its weight: a discount never makes a line negative.
    Raises ValueError for a negative weight, and when something is to be split over weights that sum to zero.
    """
    exact_weights = [Fraction(weight) for weight in weights]
    if any(weight < 0 for weight in exact_weights):
        raise ValueError("a weight is negative")
    whole = sum(exact_weights, Fraction(0))
    if whole == 0:
        if total_minor != 0:
            raise ValueError(f"cannot split {total_minor} over weights that sum to zero")
        return [0] * len(exact_weights)

    quotas = [abs(total_minor) * weight / whole for weight in exact_weights]
    shares = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda i: (shares[i] - quotas[i], i))
    for i in by_remainder[: abs(total_minor) - sum(shares)]:
        shares[i] += 1
    return shares if total_minor >= 0 else [-share for share in shares]


def format_money(minor: int, currency: str, locale: str = "en_IN") -> str:
    """Text for people: (12345678950, "INR") -> "₹12,34,56,789.50".

    Raises `Rejected("unknown_currency")`, and babel's `UnknownLocaleError`.
    """
    amount = to_major(minor, currency)
    with localcontext(_ROUNDING):  # babel quantizes in the current context; with its 28 digits large amounts raise
        text: str = _pattern(locale, exponent(currency)).apply(amount, locale, currency=currency, currency_digits=False)
    return text


@lru_cache(maxsize=256)
def _pattern(locale: str, digits: int) -> NumberPattern:
    # babel's own digits are CLDR's, and it rounds half-even to them without a word (IQD 1.500 becomes 2):
    # with ISO's digits in the pattern there is nothing left to round. Parsed anew: babel's object is shared.
    pattern = parse_pattern(Locale.parse(locale).currency_formats["standard"].pattern)
    pattern.frac_prec = (digits, digits)
    return pattern
