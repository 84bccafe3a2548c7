"""Checks of request fields, refused with Razorpay's texts where they are known.

Each reads one field of a JSON or form body (or of a query string), returns it in its own type and raises ApiError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.payments.sandbox.errors import ApiError
from services.payments.sandbox.objects import Entity
from services.payments.sandbox.store import Page

Fields = Mapping[str, Any]

CURRENCIES = frozenset({"INR", "USD", "EUR", "GBP", "SGD", "AED", "AUD", "CAD", "JPY", "KWD"})
MINIMUM_MINOR = 100
MAXIMUM_MINOR = 10**15  # past 32 bits, as real amounts are, and safe in every JSON reader
EARLIEST, LATEST = 946_684_800, 4_765_046_400  # bounds of from and to in Razorpay's lists


def only(fields: Fields, allowed: frozenset[str]) -> None:
    """Razorpay refuses fields it does not know instead of ignoring them."""
    if extra := [name for name in fields if name not in allowed]:
        raise ApiError(f"{', '.join(extra)} is/are not required and should not be sent")


def whole(fields: Fields, name: str) -> int | None:
    """An integer, also as the digits a form or a query carries; None when absent."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ApiError(f"The {_words(name)} must be an integer.", field=name)
    return value


def text(fields: Fields, name: str, limit: int) -> str | None:
    """A string of at most `limit` characters; None when absent."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ApiError(f"The {_words(name)} must be a string.", field=name)
    if len(value) > limit:
        raise ApiError(f"The {_words(name)} may not be greater than {limit} characters.", field=name)
    return value


def flag(fields: Fields, name: str, default: bool = False) -> bool:
    """True or false, also as 0 or 1."""
    value = fields.get(name, default)
    if value in (True, 1, "1", "true"):
        return True
    if value in (False, 0, "0", "false"):
        return False
    raise ApiError(f"The {_words(name)} field must be true or false.", field=name)


def section(fields: Fields, name: str, allowed: frozenset[str]) -> Entity:
    """A nested object with known keys; empty when absent."""
    value = fields.get(name) or {}
    if not isinstance(value, dict):
        raise ApiError(f"The {_words(name)} must be an array.", field=name)
    only(value, allowed)
    return value


def amount(fields: Fields, name: str = "amount") -> int:
    """Money in minor units, at least 100 of them."""
    value = whole(fields, name)
    if value is None:
        raise ApiError(f"The {_words(name)} field is required.", field=name)
    if value < MINIMUM_MINOR:
        raise ApiError("The amount must be at least INR 1.00", field=name)
    if value > MAXIMUM_MINOR:
        raise ApiError("Amount exceeds maximum amount allowed.", field=name)
    return value


def currency(fields: Fields, default: str | None = None) -> str:
    """An ISO 4217 code the account can take."""
    value = fields.get("currency", default)
    if value is None:
        raise ApiError("The currency field is required.", field="currency")
    if value not in CURRENCIES:
        raise ApiError("Currency is not supported", field="currency")
    return str(value)


def notes(fields: Fields, limit: int = 256) -> Entity:
    """At most 15 notes of at most `limit` characters. Absent and `[]` are both no notes."""
    value = fields.get("notes") or {}
    if not isinstance(value, dict):
        raise ApiError("notes must be an array", field="notes")
    if len(value) > 15:
        raise ApiError("Number of fields in notes should be less than or equal to 15", field="notes")
    for key, note in value.items():
        if isinstance(note, dict | list):
            raise ApiError("Notes values themselves should not be an array", field="notes")
        if len(str(key)) > limit or len(str(note)) > limit:
            raise ApiError(f"The notes values may not be greater than {limit} characters", field="notes")
    return value


def page(query: Fields) -> Page:
    """Razorpay's paging parameters: count (1 to 100, 10 unless told), skip, from, to."""
    count, skip = whole(query, "count"), whole(query, "skip")
    if count is not None and count < 1:
        raise ApiError("The count must be at least 1.", field="count")
    if count is not None and count > 100:
        raise ApiError("The count may not be greater than 100.", field="count")
    bounds: dict[str, int] = {}
    for name in ("from", "to"):
        at = whole(query, name)
        if at is not None and not EARLIEST <= at <= LATEST:
            raise ApiError(f"{name} must be between {EARLIEST} and {LATEST}", field=name)
        if at is not None:
            bounds[f"{name}_at"] = at
    return Page(count=10 if count is None else count, skip=skip or 0, **bounds)


def _words(name: str) -> str:
    return name.replace("_", " ")
