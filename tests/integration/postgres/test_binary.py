"""Arrays built by hand are, byte for byte, what the driver's own encoders make."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.adapt import AdaptersMap, PyFormat, Transformer
from psycopg.types.datetime import DatetimeBinaryDumper
from psycopg.types.numeric import Int4BinaryDumper, Int8BinaryDumper

from shared.postgres.binary import (
    BinaryArray,
    BoolArray,
    Int4Array,
    Int8Array,
    TextArray,
    TimestamptzArray,
    UuidArray,
)

VALUES, MANY = 10_000, 1_000_000
CHANCE = random.Random(20261125)


def text(chance: random.Random) -> str:
    return "".join(chance.choice("aé漢🙂\"\\{},\t'") for _ in range(chance.randrange(6)))


def instant(chance: random.Random) -> datetime:
    return datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=chance.randrange(-(10**15), 10**15))


KINDS: dict[
    str, tuple[Callable[[Any], BinaryArray], Callable[[random.Random], Any], Callable[[Any], Any], type[Any]]
] = {
    "uuid": (UuidArray, lambda c: c.randbytes(16), lambda v: UUID(bytes=v), object),
    "bigint": (Int8Array, lambda c: c.randrange(-(2**63), 2**63), lambda v: v, Int8BinaryDumper),
    "integer": (Int4Array, lambda c: c.randrange(-(2**31), 2**31), lambda v: v, Int4BinaryDumper),
    "timestamptz": (TimestamptzArray, instant, lambda v: v, DatetimeBinaryDumper),
    "boolean": (BoolArray, lambda c: c.random() < 0.5, lambda v: v, object),
    "text": (TextArray, text, lambda v: v, object),
}


class Own:
    """Adapters of this test alone: without them the encoders of every other test would change."""

    def __init__(self) -> None:
        self.adapters, self.connection = AdaptersMap(psycopg.adapters), None


def of_the_driver(values: Sequence[Any], dumper: type[Any]) -> bytes:
    transformer = Transformer(Own())
    if dumper is not object:
        transformer.adapters.register_dumper(type(values[0]), dumper)
    dumped = transformer.get_dumper(values, PyFormat.BINARY).dump(values)
    assert dumped is not None
    return bytes(dumped)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, VALUES, pytest.param(MANY, marks=pytest.mark.chaos)])
def test_the_bytes_are_those_of_the_driver(kind: str, count: int) -> None:
    array, draw, native, dumper = KINDS[kind]
    values = [draw(CHANCE) for _ in range(count)]
    assert array(values).wire == of_the_driver([native(value) for value in values], dumper)


@pytest.mark.parametrize("kind", KINDS)
def test_postgres_reads_back_what_was_meant(kind: str, database_url: str) -> None:
    array, draw, native, _ = KINDS[kind]
    for count in (0, 1, 1000):
        values = [draw(CHANCE) for _ in range(count)]
        with psycopg.connect(database_url) as connection:
            row = connection.execute(f"SELECT %b::{kind}[]".encode(), (array(values),)).fetchone()
        assert row is not None
        assert row[0] == [native(value) for value in values]


def test_null_is_told_from_an_empty_text(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT %b::text[]", (TextArray(["", None, "x", None]),)).fetchone()
    assert row == (["", None, "x", None],)
