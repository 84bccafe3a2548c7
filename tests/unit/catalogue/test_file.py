"""The catalogue file: every mistake with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.catalogue.file import parse_catalogue, read_catalogue
from shared.domain.errors import Usage
from tests.support.catalogue import DOCUMENT


def _mistakes(document: Any) -> str:
    with pytest.raises(Usage) as refused:
        parse_catalogue(document, "file.yaml")
    return str(refused.value)


def test_the_whole_file_is_read() -> None:
    file = parse_catalogue(DOCUMENT, "test")
    assert [key.mode for key in file.keys] == ["live", "live", "test"]
    assert file.organisations[0].time_zone == "Asia/Kolkata"


def test_all_mistakes_come_at_once_with_their_places() -> None:
    text = _mistakes(
        {
            "organisations": [
                {"id": "Acme", "name": "A", "state_code": "29"},
                {"id": "b", "name": "B", "time_zone": "Mars"},
            ],
            "meters": [
                {"id": "m", "event_type": "t", "aggregation": "sum"},
                {"id": "n", "event_type": "t", "aggregation": "median"},
            ],
            "keys": [{"name": "k", "project": "p", "scopes": ["everything"]}],
            "surprise": 1,
        }
    )
    for place in (
        "organisations.0.id",
        "organisations.1",
        "meters.0",
        "meters.1.aggregation",
        "keys.0.scopes",
        "surprise",
    ):
        assert f"  {place}" in text, place


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"organisations": [{"id": "a", "name": "A"}]}, "place of supply"),
        ({"organisations": [{"id": "a", "name": "A", "state_code": "29"}] * 2}, "organisation a stands in the file"),
        ({"keys": [{"name": "k", "project": "p"}] * 2}, "key p/k stands in the file"),
        ({"projects": [{"id": "p", "organisation": "a"}] * 2}, "project p stands in the file"),
        ({"meters": [{"id": "m", "event_type": "t", "aggregation": "count"}] * 2}, "meter m stands in the file"),
        ({"meters": [{"id": "m", "event_type": "khata.usage.void", "aggregation": "count"}]}, "are Khata's own"),
        ({"meters": [{"id": "m", "event_type": "t", "aggregation": "count", "value_path": "v"}]}, "count must not"),
        ([], "must hold organisations"),
        (None, "must hold organisations"),
    ],
)
def test_a_contradiction_in_the_file_is_told(document: Any, why: str) -> None:
    assert why in _mistakes(document)


def test_a_file_that_is_missing_or_no_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(Usage, match=r"none\.yaml: No such file"):
        read_catalogue(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    with pytest.raises(Usage, match="is not YAML"):
        read_catalogue(broken)
