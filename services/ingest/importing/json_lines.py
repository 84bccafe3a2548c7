"""JSON lines: one CloudEvent a line, sent as it stands. Its `id` and `source` make it the same event a second time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

import msgspec

from services.ingest.importing.lines import Numbered
from shared.domain.errors import Usage

_check = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class JsonLines:
    """Whether an event can be counted is for ingest to say; here a line must only be one JSON object."""

    decoding_errors: ClassVar[str] = "strict"
    newline: ClassVar[str] = "\n"

    def events(self, lines: Iterable[str]) -> Iterator[Numbered]:
        for number, line in enumerate(lines, 1):
            text = line.strip().encode()
            if not text:
                continue
            try:
                _check(text)
            except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                raise Usage(f"line {number}: not one JSON object: {error}") from None
            yield number, text
