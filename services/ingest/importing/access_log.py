"""A web server's access log, common or combined format: one line is one event `http.request`.

`data` is {bytes, status, method, path}. Bytes written as `-` are 0 (Apache: "no bytes were sent"). The query is left
out of the path: it may hold what is nobody's business. A request line that is none has method and path `-`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, ClassVar

from services.ingest.importing.lines import LineIds, Numbered, encode, into_month
from shared.domain.errors import Usage
from shared.domain.period import Month, time_zone

EVENT_TYPE = "http.request"
MAX_LINE = 64 * 1024

_MONTHS = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")  # of every locale
# Quotes inside the request may come unescaped, so it ends where status and bytes follow.
_LINE = re.compile(
    r"\S+ \S+ .*?\[(?P<day>\d\d)/(?P<month>[A-Z][a-z]{2})/(?P<year>\d{4}):(?P<h>\d\d):(?P<m>\d\d):(?P<s>\d\d) "
    r'(?P<sign>[+-])(?P<zh>\d\d)(?P<zm>\d\d)\] "(?P<request>.*?)" (?P<status>\d{3}) (?P<bytes>\d{1,18}|-)(?: .*)?'
)
_REQUEST = re.compile(r"([A-Za-z]{1,40}) (\S+)(?: HTTP/[\d.]+)?")


@dataclass
class AccessLog:
    """`source` is part of each identity: one for each log. `zone` is where days are counted for `into_month`."""

    source: str
    subject: str
    into_month: Month | None = None
    zone: str = "Asia/Kolkata"
    _ids: LineIds = field(default_factory=LineIds, init=False)

    # Servers write bytes of any kind into a log; each keeps a spelling of its own, so lines stay apart.
    decoding_errors: ClassVar[str] = "backslashreplace"
    newline: ClassVar[str] = "\n"

    def events(self, lines: Iterable[str]) -> Iterator[Numbered]:
        for number, line in enumerate(lines, 1):
            raw = line.rstrip("\r\n")
            if not raw.strip():
                continue
            yield number, self._event(number, raw)

    def _event(self, number: int, raw: str) -> bytes:
        match = _LINE.fullmatch(raw) if len(raw) <= MAX_LINE else None
        if match is None:
            raise Usage(f"line {number}: not a line of an access log in common or combined format: {raw[:60]!r}")
        try:
            time = _time(match)
            if self.into_month is not None:
                time = into_month(time, self.into_month, time_zone(self.zone))
        except (ValueError, OverflowError) as error:
            raise Usage(f"line {number}: {error}") from None
        request = _REQUEST.fullmatch(match["request"])
        document: dict[str, Any] = {
            "specversion": "1.0",
            "id": self._ids.of(raw),
            "source": self.source,
            "type": EVENT_TYPE,
            "subject": self.subject,
            "time": time,
            "data": {
                "bytes": 0 if match["bytes"] == "-" else int(match["bytes"]),
                "status": int(match["status"]),
                "method": request[1] if request else "-",
                "path": re.split("[?#]", request[2], maxsplit=1)[0] if request else "-",
            },
        }
        return encode(document)


def _time(match: re.Match[str]) -> datetime:
    if match["month"] not in _MONTHS:
        raise ValueError(f"there is no month {match['month']}")
    offset = timedelta(hours=int(match["zh"]), minutes=int(match["zm"]))
    return datetime(
        int(match["year"]),
        _MONTHS.index(match["month"]),
        int(match["day"]),
        int(match["h"]),
        int(match["m"]),
        int(match["s"]),
        tzinfo=timezone(-offset if match["sign"] == "-" else offset),
    ).astimezone(UTC)
