"""What the forms of a file have in common: identities of lines, months, encoding. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import ClassVar, Protocol
from zoneinfo import ZoneInfo

import msgspec

from shared.domain.period import Month

Numbered = tuple[int, bytes]
"""Number of the line in the file, and the event as JSON."""


class Form(Protocol):
    """How a file is read: as text with `decoding_errors` and `newline` (as `open` knows them), then line by line."""

    decoding_errors: ClassVar[str]
    newline: ClassVar[str]

    def events(self, lines: Iterable[str]) -> Iterator[Numbered]:
        """Raises Usage, naming the line, for what is not of this form."""


@dataclass
class LineIds:
    """Ids from what a line says and how often it was there before.

    A second import of the same file makes the same ids; equal lines are different events.
    """

    _seen: dict[bytes, int] = field(default_factory=dict, init=False)

    def of(self, raw: str) -> str:
        digest = blake2b(raw.encode(), digest_size=16).digest()
        occurrence = self._seen[digest] = self._seen.get(digest, 0) + 1
        return f"{digest.hex()}-{occurrence}"


encode = msgspec.json.Encoder(decimal_format="number").encode


def into_month(time: datetime, month: Month, zone: ZoneInfo) -> datetime:
    """The same local day and time in another month. Raises ValueError when that month has no such day."""
    local = time.astimezone(zone)
    if local.day > month.days:
        raise ValueError(f"{month} has no day {local.day} (local time {local:%Y-%m-%d %H:%M} in {zone.key})")
    return local.replace(year=month.year, month=month.month).astimezone(UTC)
