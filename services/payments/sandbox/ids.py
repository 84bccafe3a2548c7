"""Razorpay identifiers: a prefix, an underscore and 14 case-sensitive base62 characters."""

from __future__ import annotations

import re
import secrets
import string

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase


def bare() -> str:
    """Fourteen base62 characters: the id of a webhook event, and the tail of every other id."""
    return "".join(secrets.choice(BASE62) for _ in range(14))


def new(prefix: str) -> str:
    """A fresh id of one kind, such as `new("pay")`. From the system's randomness: a restart must not repeat one."""
    return f"{prefix}_{bare()}"


def is_valid(prefix: str, value: str) -> bool:
    """Whether `value` has the form of an id with this prefix; says nothing about whether it exists."""
    return re.fullmatch(rf"{prefix}_[0-9A-Za-z]{{14}}", value) is not None
