"""Alert rules: they ask for metrics that exist, and say what to do; promtool, where it is, plays them through."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from shared.contracts.messages.anomaly import Class
from shared.observability import names

PROMETHEUS = Path(__file__).parents[3] / "deploy" / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
WORDS = {"sum", "min", "max", "increase", "rate", "time", "unless", "and", "or", "by", "absent"}
WORDS |= {"class", "topic", "code", "kind", "state", "reason", "instance"}  # labels


def rules() -> list[dict[str, Any]]:
    documents = [yaml.safe_load(path.read_text()) for path in RULES]
    return [rule for document in documents for group in document["groups"] for rule in group["rules"]]


def metrics() -> dict[str, set[str]]:
    """Labels by the name of each series that names.py exports."""
    found: dict[str, set[str]] = {}
    for metric in vars(names).values():
        for family in metric.describe() if isinstance(metric, Counter | Gauge | Histogram) else ():
            suffix = "_total" if family.type == "counter" else ""
            found[family.name + suffix] = set(metric._labelnames)
    return found


def test_the_names_are_those_that_are_exported() -> None:
    exported = {family.name for family in REGISTRY.collect()}
    assert {"khata_anomalies", "khata_watch_records", "khata_advice_read"} <= exported
    assert metrics()["khata_anomalies_total"] == {"class"}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_a_rule_asks_for_what_there_is_and_says_what_to_do(rule: dict[str, Any]) -> None:
    expression = rule["expr"]
    without_texts = re.sub(r'"[^"]*"', '""', expression)
    for left, right in ("()", "[]", "{}"):
        assert without_texts.count(left) == without_texts.count(right)
    words = set(re.findall(r"(?<![\w.\[])[a-z_]+\b", without_texts))
    asked = {word for word in words if word.startswith("khata_")}
    assert asked
    assert asked <= metrics().keys()
    assert words - asked <= WORDS
    for series, matchers in re.findall(r"(khata_\w+)\{([^}]*)\}", expression):
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
            assert label in metrics()[series]
            assert label != "class" or set(value.split("|")) <= set(Class)
    assert set(rule["annotations"]) == {"summary", "description"}
    assert rule["labels"]["severity"] in {"info", "warning", "page"}


def test_every_class_of_finding_has_its_rule() -> None:
    asked = re.findall(r'khata_anomalies_total\{class=~?"([\w|]+)"', " ".join(rule["expr"] for rule in rules()))
    assert sorted("|".join(asked).split("|")) == sorted(Class)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (package prometheus)")
def test_promtool_plays_the_rules_through() -> None:
    tests = sorted((PROMETHEUS / "tests").glob("*_test.yml"))
    assert tests
    for command in (["check", "rules", *RULES], ["test", "rules", *tests]):
        done = subprocess.run(["promtool", *map(str, command)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
