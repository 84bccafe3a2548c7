"""The canonical document: one spelling of an invoice, in bytes, that can be made again and compared. Pure.

JSON with sorted keys and no spaces; amounts are integers of minor units, everything finer is decimal text,
days and instants are ISO 8601. No float ever. What it holds: see `calculate`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal, localcontext
from typing import Any

from shared.domain.money import EXACT

ENGINE_VERSION = "1"
"""Raised whenever the same usage and prices would give other bytes; kept in every invoice."""

Document = dict[str, Any]


def canonical(document: Document) -> bytes:
    """Its one spelling in UTF-8. Raises TypeError for a float or anything else that has no exact spelling."""
    _check(document, "document")
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def numbered(document: Document, number: str, issued_on: date) -> Document:
    """The final document: as drafted, with its number and date (CGST Rule 46(b) and (c))."""
    return document | {"number": number, "issued_on": issued_on.isoformat()}


def exact_text(value: Decimal) -> str:
    """One spelling per number: no exponent, no trailing zeros, no minus on zero."""
    with localcontext(EXACT):
        text = f"{value.normalize():f}"
    return "0" if text == "-0" else text


def offsets_said(offsets: Mapping[str, Mapping[int, int]]) -> dict[str, dict[str, int]]:
    """A vector of offsets, by topic and partition."""
    return {
        topic: {str(partition): offset for partition, offset in sorted(partitions.items())}
        for topic, partitions in offsets.items()
    }


def offsets_read(said: Mapping[str, Mapping[str, int]]) -> dict[str, dict[int, int]]:
    """Back from `offsets_said`. Raises ValueError."""
    return {
        topic: {int(partition): offset for partition, offset in partitions.items()}
        for topic, partitions in said.items()
    }


def differences(stored: Any, rebuilt: Any, place: str = "") -> Iterator[str]:
    """Where two documents differ, in words: `lines.0.quantity: stored 100, rebuilt 99`."""
    if isinstance(stored, dict) and isinstance(rebuilt, dict):
        for key in sorted(stored.keys() | rebuilt.keys()):
            yield from differences(stored.get(key), rebuilt.get(key), f"{place}.{key}" if place else key)
    elif isinstance(stored, list) and isinstance(rebuilt, list) and len(stored) == len(rebuilt):
        for index, (one, other) in enumerate(zip(stored, rebuilt, strict=True)):
            yield from differences(one, other, f"{place}.{index}")
    elif stored != rebuilt or type(stored) is not type(rebuilt):
        yield f"{place}: stored {_short(stored)}, rebuilt {_short(rebuilt)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 120 else text[:117] + "..."


def _check(value: Any, place: str) -> None:
    match value:
        case None | str() | bool() | int():
            return
        case dict():
            for key, inner in value.items():
                if not isinstance(key, str):
                    raise TypeError(f"{place} has the key {key!r}, which is not text")
                _check(inner, f"{place}.{key}")
        case list():
            for index, inner in enumerate(value):
                _check(inner, f"{place}.{index}")
        case _:
            raise TypeError(f"{place} is a {type(value).__name__}, which has no exact spelling")
