"""Files of usage: one row is one event with an identity that a second import repeats."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from services.ingest.client import Answer, IngestClient
from services.ingest.importing.mapping import Mapping, read_mapping
from services.ingest.importing.rows import Events, rows
from services.ingest.importing.run import import_file
from shared.domain.errors import BrokerAway, Usage
from shared.domain.period import Month

DOCUMENT: dict[str, Any] = {
    "type": "llm.request",
    "source": "trace",
    "subject": {"column": "user"},
    "time": {"column": "at"},
    "data": {"tokens": {"column": "n", "type": "integer"}, "cost": {"column": "c", "type": "decimal"}},
}
HEADER = "at,user,n,c"
ROW = "2023-11-16 18:17:03.9799600,alice,4808,0.10"


def events(text: str, into: str | None = None, **more: Any) -> list[dict[str, Any]]:
    mapping = Mapping.model_validate(DOCUMENT | more)
    made = Events(mapping, "trace", Month.parse(into) if into else None)
    return [json.loads(made.event(row)) for row in rows(text.splitlines(keepends=True), mapping)]


def one(row: str, **more: Any) -> dict[str, Any]:
    [made] = events(f"{HEADER}\n{row}\n", **more)
    return made


def test_a_row_becomes_an_event_with_exact_numbers() -> None:
    made = one(ROW)
    assert made | {"id": ""} == {
        "specversion": "1.0",
        "id": "",
        "source": "trace",
        "type": "llm.request",
        "subject": "alice",
        "time": "2023-11-16T18:17:03.979960Z",
        "data": {"tokens": 4808, "cost": 0.10},
    }
    mapping = Mapping.model_validate(DOCUMENT)
    [row] = rows([HEADER + "\n", "2023-11-16,a,1,0.10000000000000000001"], mapping)
    assert b'"cost":0.10000000000000000001' in Events(mapping, "t").event(row)


def test_equal_lines_are_different_events_and_a_second_import_makes_the_same_ids() -> None:
    text = f"{HEADER}\n{ROW}\n{ROW}\n2023-11-16,bob,1,1\n{ROW}\n"
    first = [event["id"] for event in events(text)]
    assert len(set(first)) == 4
    assert {first[0][:-2], first[1][:-2], first[3][:-2]} == {first[0].removesuffix("-1")}
    assert [event["id"] for event in events(text)] == first


def test_a_row_added_in_front_leaves_the_other_identities_as_they_were() -> None:
    before = events(f"{HEADER}\n{ROW}\n")
    after = events(f"{HEADER}\n2023-01-01,new,1,1\n{ROW}\n")
    assert after[1]["id"] == before[0]["id"]


def test_line_ends_and_blank_lines_do_not_change_an_identity() -> None:
    unix = events(f"{HEADER}\n{ROW}\n2023-11-16,bob,1,1\n")
    windows = events(f"{HEADER}\r\n{ROW}\r\n\r\n2023-11-16,bob,1,1")
    assert windows == unix


def test_a_quoted_line_break_is_one_row_and_later_lines_keep_their_numbers() -> None:
    text = f'{HEADER}\n2023-11-16,"a\nb",1,1\n2023-11-16,c,x,1\n'
    with pytest.raises(Usage, match=r"line 4: n: 'x' is not a number"):
        events(text)
    assert events(f'{HEADER}\n2023-11-16,"a\nb",1,1\n')[0]["subject"] == "a\nb"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("2023-11-16,a,1", "line 2: has 3 fields, the header has 4"),
        ("2023-11-16,a,1,1,1", "line 2: has 5 fields"),
        ("2023-11-16,a,1.5,1", "line 2: n: '1.5' is not a whole number"),
        ("2023-11-16,a,,1", "line 2: n: '' is not a number"),
        ("2023-11-16,a,NaN,1", "line 2: n: 'NaN' is not a number"),
        ("2023-11-16,a,Infinity,1", "line 2: n: 'Infinity' is not a number"),
        ("2023-11-16,a,1e999999,1", "line 2: n: '1e999999' is not a number"),
        ("2023-11-16,a,1,nan", "line 2: c: 'nan' is not a number"),
        ("2023-11-16,a,1,-Infinity", "line 2: c: '-Infinity' is not a number"),
        ("16.11.2023,a,1,1", "line 2: at: '16.11.2023' is not a time"),
        ("0001-01-01T00:00:00+14:00,a,1,1", "line 2: at: .* outside the calendar"),
        ('2023-11-16,"a"b,1,1', "line 2: not CSV"),
        ('2023-11-16,"a,1,1', "line 2: not CSV"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(row: str, why: str) -> None:
    with pytest.raises(Usage, match=why):
        one(row)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the file is empty"),
        ("at,user\n", "lacks the columns c, n; it has at, user"),
        ("at,user,n,c,n\n", "the columns n more than once"),
        ("\ufeffat,user,n,c\n", "lacks the columns at"),
    ],
)
def test_a_header_that_does_not_fit_is_told(text: str, why: str) -> None:
    with pytest.raises(Usage, match=why):
        events(text)


def test_into_a_month_keeps_the_local_day_and_time() -> None:
    late = one("2023-11-16T23:59:59+05:30,a,1,1", into="2026-10")
    assert late["time"] == "2026-10-16T18:29:59Z"
    early = one("2023-11-16T00:00:00+05:30,a,1,1", into="2026-10")
    assert early["time"] == "2026-10-15T18:30:00Z"
    new_york = one("2023-11-16T23:30:00-05:00,a,1,1", into="2026-06", local_zone="America/New_York")
    assert new_york["time"] == "2026-06-17T03:30:00Z"


def test_a_day_that_the_month_lacks_is_refused_and_not_moved() -> None:
    with pytest.raises(Usage, match=r"line 2: 2026-02 has no day 30 \(local time 2023-11-30 00:00"):
        one("2023-11-29T18:30:00Z,a,1,1", into="2026-02")
    assert one("2023-11-28T18:29:59Z,a,1,1", into="2026-02")["time"] == "2026-02-28T18:29:59Z"


def test_times_without_a_zone_are_of_the_zone_that_the_mapping_names() -> None:
    time = {"column": "at", "format": "%d.%m.%Y %H:%M", "zone": "Asia/Kolkata"}
    assert one("16.11.2023 00:00,a,1,1", time=time)["time"] == "2023-11-15T18:30:00Z"


def test_a_mapping_with_mistakes_names_every_place(tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text(
        "type: t\nsubject: {column: a, constant: b}\ntime: {column: at, zone: Mars}\ndata: {n: {kolumn: x}}\n"
    )
    with pytest.raises(Usage) as refused:
        read_mapping(path)
    for place in ("subject:", "time.zone:", "data.n"):
        assert f"  {place}" in str(refused.value)


@dataclass
class _Recorder(IngestClient):
    """Takes everything but subjects named `bad`; `away` fails at once."""

    url: str = "http://127.0.0.1:1"
    key: str = ""
    away: bool = False
    seen: list[dict[str, Any]] = field(default_factory=list)

    async def send(self, events: Sequence[bytes]) -> Answer:
        await asyncio.sleep(0)
        if self.away:
            raise BrokerAway("ingest has not taken the events")
        documents = [json.loads(event) for event in events]
        bad = tuple((i, "invalid_event", "no") for i, one in enumerate(documents) if one["subject"] == "bad")
        self.seen += documents
        return Answer(len(events) - len(bad), bad, 1)


async def _import(path: Path, client: IngestClient) -> Any:
    mapping = Mapping.model_validate(DOCUMENT)
    return await import_file(path, Events(mapping, "trace"), client)


async def test_a_file_with_a_byte_order_mark_is_sent_whole_and_refusals_name_their_lines(tmp_path: Path) -> None:
    path, client = tmp_path / "usage.csv", _Recorder()
    lines = [f"2023-11-16,{'bad' if n == 700 else 'u'},{n},1" for n in range(2, 1202)]
    path.write_bytes(("\ufeff" + "\r\n".join([HEADER, *lines])).encode())
    done = await _import(path, client)
    assert (done.rows, done.accepted, done.rejected) == (1200, 1199, 1)
    assert done.refused == [(700, "invalid_event", "no")]
    assert sum(one["data"]["tokens"] for one in client.seen) == sum(range(2, 1202))


@pytest.mark.parametrize("bad_at", [1, 900])
async def test_a_file_that_is_not_utf8_is_told_in_one_sentence(tmp_path: Path, bad_at: int) -> None:
    path = tmp_path / "latin1.csv"
    path.write_bytes(
        "\n".join([HEADER, *(f"2023-11-16,{'é' if n == bad_at else 'e'},1,1" for n in range(1000))]).encode("latin-1")
    )
    with pytest.raises(Usage, match="is not UTF-8 text"):
        await _import(path, _Recorder())


async def test_errors_come_out_as_themselves(tmp_path: Path) -> None:
    path = tmp_path / "usage.csv"
    with pytest.raises(Usage, match="No such file"):
        await _import(path, _Recorder())
    path.write_text(f"{HEADER}\n{ROW}\nshort,row\n")
    with pytest.raises(Usage, match="line 3: has 2 fields"):
        await _import(path, _Recorder())
    path.write_text(f"{HEADER}\n{ROW}\n")
    with pytest.raises(BrokerAway):
        await _import(path, _Recorder(away=True))
