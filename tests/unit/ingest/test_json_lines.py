"""JSON lines: each line is sent as it stands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from services.ingest.client import Answer, IngestClient
from services.ingest.importing.json_lines import JsonLines
from services.ingest.importing.run import BATCH_BYTES, import_file
from shared.domain.errors import Usage


def test_lines_are_sent_byte_for_byte_with_their_numbers() -> None:
    lines = ['{"id":"1", "data":{"n":1.50}}\n', "\n", '  {"id":"2"}  \r\n']
    assert list(JsonLines().events(lines)) == [(1, b'{"id":"1", "data":{"n":1.50}}'), (3, b'{"id":"2"}')]


@pytest.mark.parametrize("line", ["{", "[]", '"text"', "5", '{"a":1}{"b":2}', '{"a":1},{"b":2}', "{'a':1}", "nonsense"])
def test_a_line_that_is_not_one_object_is_named(line: str) -> None:
    with pytest.raises(Usage, match="^line 2: not one JSON object"):
        list(JsonLines().events(['{"id":"1"}\n', line]))


@dataclass
class Takes:
    """A client that takes everything but events whose id is "no"."""

    calls: list[list[bytes]] = field(default_factory=list)

    async def send(self, events: Sequence[bytes]) -> Answer:
        self.calls.append(list(events))
        refused = [n for n, event in enumerate(events) if json.loads(event)["id"] == "no"]
        return Answer(len(events) - len(refused), tuple((n, "bad_value", "no") for n in refused), 1)


def test_large_events_are_sent_in_calls_that_ingest_takes(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps({"id": str(n), "data": "x" * 200_000}) + "\n" for n in range(60)))
    client = Takes()
    done = asyncio.run(import_file(path, JsonLines(), cast(IngestClient, client)))
    assert (done.rows, done.accepted, done.rejected) == (60, 60, 0)
    assert all(sum(map(len, call)) <= BATCH_BYTES for call in client.calls)
    assert [json.loads(event)["id"] for call in client.calls for event in call] == [str(n) for n in range(60)]


def test_what_ingest_refuses_is_told_by_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"id":"1"}\n\n{"id":"no"}\n{"id":"3"}\n')
    done: Any = asyncio.run(import_file(path, JsonLines(), cast(IngestClient, Takes())))
    assert (done.rows, done.accepted, done.refused) == (3, 2, [(3, "bad_value", "no")])
