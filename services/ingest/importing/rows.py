"""Rows to events. Pure but for reading the lines it is given.

Identity: source from the mapping (or --source), id = digest of the raw line and its occurrence number in
the file. A second import of the same file counts nothing again; equal lines are different events.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar

from services.ingest.importing.lines import LineIds, Numbered, encode, into_month
from services.ingest.importing.mapping import Mapping, Time, Value
from shared.domain.errors import Usage
from shared.domain.period import Month, time_zone

# Ingest says what a meter takes (below 10^20); this only keeps the exponent from filling the memory with zeros.
MAX_EXPONENT = 40


@dataclass(frozen=True, slots=True)
class Row:
    """One record of the file: its first line's number, the raw text, the fields by column."""

    line: int
    raw: str
    fields: dict[str, str]


@dataclass
class _Lines:
    """Hands lines to the CSV reader and remembers those of the current record (quotes may span lines)."""

    source: Iterator[str]
    taken: list[str] = field(default_factory=list)
    number: int = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self.source)
        self.number += 1
        self.taken.append(line)
        return line


def rows(lines: Iterable[str], mapping: Mapping) -> Iterator[Row]:
    """Records of a CSV with a header line. Raises Usage when a mapped column is missing or a record is short."""
    source = _Lines(iter(lines))
    reader = csv.reader(source, delimiter=mapping.delimiter, strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise Usage("the file is empty")
        if doubled := sorted({name for name in mapping.columns if header.count(name) > 1}):
            raise Usage(f"the file has the columns {', '.join(doubled)} more than once")
        missing = sorted(mapping.columns - set(header))
        if missing:
            raise Usage(f"the file lacks the columns {', '.join(missing)}; it has {', '.join(header)}")
        source.taken.clear()
        for record in reader:
            raw = "".join(source.taken).rstrip("\r\n")
            first_line = source.number - len(source.taken) + 1
            source.taken.clear()
            if not record:
                continue
            if len(record) != len(header):
                raise Usage(f"line {first_line}: has {len(record)} fields, the header has {len(header)}")
            yield Row(first_line, raw, dict(zip(header, record, strict=True)))
    except csv.Error as error:
        raise Usage(f"line {source.number}: not CSV: {error}") from None


@dataclass
class Events:
    """Turns rows into CloudEvents (JSON bytes); remembers how often it saw each line."""

    decoding_errors: ClassVar[str] = "strict"
    newline: ClassVar[str] = ""
    mapping: Mapping
    source: str
    into_month: Month | None = None
    project: str | None = None
    _ids: LineIds = field(default_factory=LineIds, init=False)

    def events(self, lines: Iterable[str]) -> Iterator[Numbered]:
        for row in rows(lines, self.mapping):
            yield row.line, self.event(row)

    def event(self, row: Row) -> bytes:
        """Raises Usage, naming the line, for a field that is not what the mapping says."""
        try:
            data = {name: _value(value, row) for name, value in self.mapping.data.items()}
            time = self._moved(_time(self.mapping.time, row))
        except ValueError as error:
            raise Usage(f"line {row.line}: {error}") from None
        document: dict[str, Any] = {
            "specversion": "1.0",
            "id": self._ids.of(row.raw),
            "source": self.source,
            "type": self.mapping.type,
            "subject": str(_value(self.mapping.subject, row)),
            "time": time,
            "data": data,
        }
        return encode(document)

    def _moved(self, time: datetime) -> datetime:
        if self.into_month is None:
            return time
        return into_month(time, self.into_month, time_zone(self.mapping.local_zone))


def _value(value: Value, row: Row) -> int | Decimal | str:
    text = value.constant if value.column is None else row.fields[value.column]
    assert text is not None
    if value.type == "text":
        return text
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        raise ValueError(f"{value.column}: {text[:40]!r} is not a number") from None
    if not number.is_finite() or number.adjusted() > MAX_EXPONENT:
        raise ValueError(f"{value.column}: {text[:40]!r} is not a number that can be counted")
    if value.type == "decimal":
        return number
    if number != number.to_integral_value():
        raise ValueError(f"{value.column}: {text[:40]!r} is not a whole number")
    return int(number)


def _time(mapping: Time, row: Row) -> datetime:
    text = row.fields[mapping.column].strip()
    try:
        time = datetime.fromisoformat(text) if mapping.format == "iso" else datetime.strptime(text, mapping.format)  # noqa: DTZ007
    except ValueError:
        raise ValueError(f"{mapping.column}: {text[:40]!r} is not a time of the form {mapping.format}") from None
    if time.tzinfo is None:
        time = time.replace(tzinfo=time_zone(mapping.zone))
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{mapping.column}: {text[:40]!r} is outside the calendar") from None
