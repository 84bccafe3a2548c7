"""`khata meters simulate`: the page's example, errors by line, and schemas that the lines keep to."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from shared.catalogue.file import parse_catalogue
from shared.catalogue.meter_entry import MeterEntry

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "meters.md").read_text()
PERIOD = {"start": "2026-10-01T00:00:00+05:30", "end": "2026-10-03T00:00:00+05:30"}


def simulated(*lines: str, arguments: tuple[str, ...] = ()) -> tuple[int, list[Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "cli", "meters", "simulate", *arguments],
        cwd=ROOT,
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr, done.stderr
    text = done.stdout
    return done.returncode, [json.loads(text)] if arguments else [json.loads(line) for line in text.splitlines()]


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_pages_example_prints_what_the_page_says(tmp_path: Path) -> None:
    command = tmp_path / "khata"
    command.write_text(f'#!/bin/sh\ncd "{ROOT}" && exec "{sys.executable}" -m cli "$@"\n')
    command.chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", block("sh")], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, json.loads(done.stdout)) == (0, json.loads(block("json")))


def test_the_pages_meter_is_one() -> None:
    [meter] = parse_catalogue(yaml.safe_load(block("yaml")), "docs/meters.md").meters
    assert meter.meter().group_by == (("model", "model"), ("region", "where.region"))


def test_many_cases_in_one_run_each_with_its_line_and_all_keep_to_the_schemas() -> None:
    _, [schemas] = simulated(arguments=("--schema",))
    tokens = {"id": "t", "event_type": "llm", "aggregation": "sum", "value_path": "n", "group_by": {"m": "m"}}
    event = {"id": "1", "time": "2026-10-01T10:00:00+05:30", "data": {"n": 1.10, "m": "a"}}
    cases = [
        {"meter": tokens, "events": [event, event, event | {"data": {"n": 2}}], "period": PERIOD, "window": "day"},
        {"meter": tokens, "events": [event | {"id": "2", "data": {"n": "x"}}], "period": PERIOD, "time_zone": "UTC"}
        | {"period": {"start": "2026-10-01T00:00:00Z", "end": "2026-10-02T00:00:00Z"}},
    ]
    code, results = simulated(*map(json.dumps, cases))
    assert code == 0
    assert [(row["start"], row["quantity"], row["events"]) for row in results[0]["windows"]] == [
        ("2026-09-30T18:30:00+00:00", "1.1", 1),
        ("2026-10-01T18:30:00+00:00", "0", 0),
    ]
    assert (results[0]["duplicates"], results[0]["conflicts"]) == (1, 1)
    assert [one["code"] for one in results[1]["rejected"]] == ["bad_value"]
    for case, result in zip(cases, results, strict=True):
        jsonschema.validate(case, schemas["case"])
        jsonschema.validate(result, schemas["result"])


def test_a_number_keeps_every_digit_that_it_was_written_with() -> None:
    line = (
        '{"meter": {"id": "t", "event_type": "e", "aggregation": "sum", "value_path": "n"}, "events": '
        '[{"id": "1", "time": "2026-10-01T10:00:00+05:30", "data": {"n": 12345678901234567890.123456789012345678}}], '
        f'"period": {json.dumps(PERIOD)}}}'
    )
    _, [result] = simulated(line)
    assert result["windows"][0]["quantity"] == "12345678901234567890.123456789012345678"


def test_a_case_that_is_none_gets_a_line_that_says_why_and_the_others_go_on() -> None:
    good = {"meter": {"id": "t", "event_type": "e", "aggregation": "count"}, "events": [], "period": PERIOD}
    wrong = [
        "not json",
        json.dumps(good | {"meter": good["meter"] | {"aggregation": "median"}}),  # type: ignore[operator]
        json.dumps(good | {"time_zone": "Mars"}),
        json.dumps(good | {"period": {"start": "2026-10-01T00:10:00+05:30", "end": "2026-10-03T00:00:00+05:30"}}),
        json.dumps(good | {"surprise": 1}),
    ]
    code, results = simulated(*wrong, json.dumps(good))
    assert code == 1
    assert ["error" in result for result in results] == [True] * 5 + [False]
    assert "start of an hour" in results[3]["error"]


@pytest.mark.parametrize(
    ("definition", "why"),
    [
        ({"aggregation": "max"}, "max needs value_path"),
        ({"aggregation": "count", "value_path": "v"}, "count must not have"),
        ({"aggregation": "unique_count", "value_path": "v", "clamp": {"min": 1}}, "no value to clamp"),
        ({"aggregation": "sum", "value_path": "v", "clamp": {"min": 2, "max": 1}}, "min must not be above max"),
        ({"aggregation": "count", "filters": [{"path": "a", "operator": "in"}]}, "in needs at least one value"),
        (
            {"aggregation": "count", "filters": [{"path": "a", "operator": "below", "values": ["1"]}]},
            "takes one number",
        ),
        ({"aggregation": "count", "filters": [{"path": "a", "operator": "exists", "values": [1]}]}, "takes no values"),
        ({"aggregation": "count", "effective_from": "2026-10-01T10:30:00Z"}, "full hour"),
    ],
)
def test_a_definition_that_cannot_be_is_refused_with_the_reason(definition: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        MeterEntry.model_validate({"id": "m", "event_type": "e"} | definition)
