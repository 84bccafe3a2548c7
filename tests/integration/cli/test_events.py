"""`khata events`: files of every form, one event by hand, and following what was accepted."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
import yaml

from tests.support.product import ROOT, Product
from tests.support.waiting import eventually

LAST_MONTH = f"{datetime.now(UTC).replace(day=1) - timedelta(days=1):%Y-%m}"


@dataclass(frozen=True)
class Seller:
    """A project of its own with meters for requests and bytes."""

    product: Product
    project: str
    keys: Path

    def run(self, *arguments: str, code: int = 0, stdin: str | None = None) -> Any:
        """The JSON document a command of `khata events` shows."""
        command = [sys.executable, "-m", "cli", "events", *arguments, "--keys-file", str(self.keys), "--output", "json"]
        env = os.environ | self.product.env
        done = subprocess.run(command, cwd=ROOT, env=env, input=stdin, capture_output=True, text=True, timeout=110)
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def windows(self) -> dict[str, tuple[int, Decimal]]:
        """(count, sum) per meter."""
        with psycopg.connect(self.product.env["DATABASE_URL"]) as connection:
            rows = connection.execute(
                "SELECT meter_id, sum(count)::bigint, sum(sum) FROM usage.window WHERE project_id = %s GROUP BY 1",
                (self.project,),
            ).fetchall()
        return {meter: (count, total) for meter, count, total in rows}

    def counted(self, requests: int, size: int) -> None:
        """Waits until the windows say so."""
        wanted = {"web_requests": (requests, Decimal(requests)), "web_bytes": (requests, Decimal(size))}

        async def probe() -> dict[str, tuple[int, Decimal]]:
            return self.windows()

        asyncio.run(eventually(probe, lambda found: found == wanted))


@pytest.fixture
def seller(product: Product, tmp_path: Path) -> Iterator[Seller]:
    name = f"web-{uuid.uuid4().hex[:8]}"
    catalogue = {
        "organisations": [{"id": name, "name": name, "state_code": "29"}],
        "projects": [{"id": name, "organisation": name}],
        "meters": [
            {"id": "web_requests", "event_type": "http.request", "aggregation": "count"},
            {"id": "web_bytes", "event_type": "http.request", "aggregation": "sum", "value_path": "bytes"},
        ],
        "keys": [{"name": "first", "project": name}],
    }
    file, keys = tmp_path / "catalogue.yaml", tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump(catalogue))
    done = product.khata("catalogue", "apply", str(file), "--keys-out", str(keys))
    assert done.returncode == 0, done.stderr
    yield Seller(product, name, keys)


def test_the_sample_access_log_counts_as_by_hand_and_a_second_time_nothing(seller: Seller) -> None:
    for _ in range(2):
        told = seller.run("import", "examples/access.log", "--source", "web-1", "--into-month", LAST_MONTH)
        assert told == {"rows": 10, "accepted": 10, "rejected": 0, "refused": []}
    seller.counted(10, 12_924)


def test_the_trial_log_counts_as_its_licence_page_says(seller: Seller) -> None:
    folder = os.environ.get("KHATA_TRIAL_DATA")
    if folder is None:
        pytest.skip("KHATA_TRIAL_DATA does not name the folder of the licensed trial data (access.log)")
    told = seller.run(
        *("import", str(Path(folder) / "access.log"), "--format", "access-log", "--source", "web-1"),
        *("--into-month", LAST_MONTH),
    )
    assert (told["rows"], told["accepted"]) == (10_000, 10_000)
    seller.counted(10_000, 2_747_282_740)


def test_json_lines_are_sent_and_refusals_named_by_line(seller: Seller, tmp_path: Path) -> None:
    def line(id: str, size: Any) -> str:
        event = {"specversion": "1.0", "id": id, "source": "s", "type": "http.request", "subject": "a"}
        return json.dumps(event | {"data": {"bytes": size}})

    path = tmp_path / "events.jsonl"
    path.write_text("\n".join([line("1", 5), line("2", "x"), "", line("3", 7)]))
    told = seller.run("import", str(path), code=1)
    assert (told["rows"], told["accepted"], told["rejected"]) == (3, 2, 1)
    assert [(refusal["line"], refusal["code"]) for refusal in told["refused"]] == [(2, "bad_value")]
    seller.counted(2, 12)


def test_one_event_is_sent_asked_about_and_refused(seller: Seller) -> None:
    event = ("send", "--type", "http.request", "--subject", "alice", "--data")
    asked = seller.run(*event, '{"bytes": 5}', "--validate-only")
    assert asked["outcome"] == "would be accepted"
    sent = seller.run(*event, '{"bytes": 5}', "--id", "mine")
    assert sent == {"id": "mine", "source": "khata-events-send", "outcome": "accepted"}
    again = seller.run(*event, '{"bytes": 5}', "--id", "mine")
    assert again == sent
    whole = {
        "specversion": "1.0",
        "id": "w",
        "source": "s",
        "type": "http.request",
        "subject": "a",
        "data": {"bytes": 9},
    }
    assert seller.run("send", "--stdin", stdin=json.dumps(whole))["outcome"] == "accepted"
    refused = seller.run(*event, '{"bytes": "many"}', code=1)
    assert (refused["outcome"], refused["code"]) == ("refused", "bad_value")
    seller.counted(2, 14)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("send", "--subject", "a", "--key", "k"), "needs --type and --subject"),
        (("send", "--type", "t", "--subject", "a", "--data", "{", "--key", "k"), "--data is not JSON"),
        (("send", "--type", "t", "--subject", "a"), "give a key"),
        (("send", "--stdin", "--type", "t", "--key", "k"), "--stdin takes the whole event"),
        (("send", "--stdin", "--key", "k"), "stdin is not one JSON object"),
        (("import", "examples/tokens.csv", "--key", "k"), "a CSV needs --mapping"),
        (("import", "examples/access.log", "--key", "k"), "--source"),
        (("import", "examples/access.log", "--source", "s", "--zone", "Mars", "--key", "k"), "--zone"),
        (("import", "nowhere.jsonl", "--key", "k"), "there is no such file"),
        (("import", "x.jsonl", "--source", "s", "--key", "k"), "JSON lines are whole events"),
        (("import", "x.jsonl", "--mapping", "m.yaml", "--key", "k"), "--mapping is for csv"),
    ],
)
def test_what_is_typed_wrong_is_told_in_one_sentence(product: Product, arguments: tuple[str, ...], says: str) -> None:
    done = product.khata("events", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_tail_shows_what_is_accepted_from_now_on_and_all_of_it_on_demand(seller: Seller) -> None:
    def send(id: str) -> None:
        data = '{"bytes": 1.50}'
        seller.run("send", "--type", "http.request", "--subject", "alice", "--id", id, "--data", data)

    send("before")
    command = [sys.executable, "-m", "cli", "events", "tail", "--project", seller.project]
    env = os.environ | seller.product.env
    with subprocess.Popen(
        [*command, "--count", "2", "--output", "json"],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as following:
        try:
            assert following.stderr is not None
            first = following.stderr.readline()
            assert "following" in first, first + following.stderr.read()
            send("one")
            send("two")
            out, _ = following.communicate(timeout=20)
        finally:
            following.kill()
    shown = [json.loads(line) for line in out.splitlines()]
    assert [event["id"] for event in shown] == ["one", "two"]
    assert '"data":{"bytes": 1.50}' in out
    assert {event["project"] for event in shown} == {seller.project}

    whole = subprocess.run(
        [*command, "--from-beginning", "--count", "3"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    lines = whole.stdout.splitlines()
    assert len(lines) == 3
    assert all("http.request  alice  khata-events-send" in line and '{"bytes": 1.50}' in line for line in lines)


def test_an_event_that_was_sent_is_traced_and_read_over_the_console(seller: Seller) -> None:
    [made] = seller.product.json(
        "keys", "create", "--project", seller.project, "--name", "reader", "--scope", "usage:read"
    )
    id = uuid.uuid4().hex
    time = f"{LAST_MONTH}-10T10:30:00Z"
    sent = {"specversion": "1.0", "id": id, "source": "trace/1", "type": "http.request", "subject": "me", "time": time}
    seller.run("send", "--stdin", stdin=json.dumps(sent | {"data": {"bytes": 7}}))

    async def traced() -> Any:
        done = seller.product.khata("events", "trace", "trace/1", id, "-p", seller.project, "--output", "json")
        return json.loads(done.stdout) if done.returncode == 0 else None

    story = asyncio.run(eventually(traced, lambda found: found is not None))
    assert [stage["stage"] for stage in story["stages"]][:4] == ["accepted", "logged", "applied", "counted"]
    console = seller.product.stack.plan.console_url
    headers = {"Authorization": f"Bearer {made['key (shown once)']}"}
    asked = {"from": f"{LAST_MONTH}-10", "to": f"{LAST_MONTH}-11", "window": "hour"}
    with httpx2.Client(base_url=console, headers=headers, trust_env=False) as client:
        usage = client.get("/v1/meters/web_bytes/usage", params=asked)
        assert usage.status_code == 200, usage.text
        over_http = client.get("/v1/events", params={"source": "trace/1", "id": id}).json()
    assert [(row["events"], row["quantity"]) for row in usage.json()["rows"]] == [(1, "7")]
    assert over_http["stages"] == story["stages"]
    missing = seller.product.khata("events", "trace", "trace/1", "nothing", "-p", seller.project)
    assert missing.returncode == 2
    assert "it may be on its way" in missing.stderr


def test_an_event_that_was_wrong_is_amended_and_taken_back(seller: Seller) -> None:
    event = ("send", "--type", "http.request", "--subject", "alice", "--data")
    for id in ("one", "two"):
        seller.run(*event, '{"bytes": 5}', "--id", id)
    about = ("--target-source", "khata-events-send", "--subject", "alice")
    asked = seller.run("amend", "one", *about, "--data", '{"bytes": 0.50}', "--validate-only")
    assert asked["outcome"] == "would be accepted"
    amended = seller.run("amend", "one", *about, "--data", '{"bytes": 7}', "--id", "fix-1", "--reason", "wrong unit")
    assert amended == {"id": "fix-1", "source": "khata-events-send", "outcome": "accepted"}
    seller.run("void", "two", *about)
    seller.counted(1, 7)
    shown = seller.product.json("corrections", "show", "khata-events-send", "fix-1", "--project", seller.project)
    assert (shown["state"], shown["target_id"], shown["reason"]) == ("applied", "one", "wrong unit")
    refused = seller.run("void", "fix-2", "--target-source", "s" * 513, "--subject", "alice", code=1)
    assert (refused["outcome"], refused["code"]) == ("refused", "invalid_correction")
