"""`khata keys` as an operator types it."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from cli.keys import duration, pepper_rows
from shared.catalogue.keys import parse
from shared.contracts.messages.catalogue import ApiKeyMessage, decode_catalogue
from shared.contracts.topics import CATALOGUE
from shared.domain.errors import Usage
from tests.conftest import Parts
from tests.support.catalogue import apply_document
from tests.support.kafka import read_topic
from tests.support.services import PEPPERS

SHOWN = "key (shown once)"


class Operator:
    """Types commands on the test's own database and topics."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def types(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | self.parts.env | {"KEY_PEPPERS": PEPPERS, "KHATA_OPERATOR": "asha"} | more
        return subprocess.run(
            [sys.executable, "-m", "cli", "keys", *arguments], env=env, capture_output=True, text=True, timeout=60
        )

    def rows(self, *arguments: str, **more: str) -> list[dict[str, Any]]:
        done = self.types(*arguments, "--output", "json", **more)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def told(self) -> dict[str, ApiKeyMessage]:
        """Keys by id as catalogue.v1 tells them."""
        records = asyncio.run(read_topic(self.parts, self.parts.kafka.names.topic(CATALOGUE)))
        messages = [decode_catalogue(record.value or b"") for record in records]
        return {message.id: message for message in messages if isinstance(message, ApiKeyMessage)}


@pytest.fixture
def operator(parts: Parts) -> Operator:
    asyncio.run(apply_document(parts))
    return Operator(parts)


def test_a_key_from_its_making_to_its_end(operator: Operator) -> None:
    name = ("--project", "acme-app", "--name", "web")
    limit = ("--limit-per-second", "100", "--burst", "500")
    [made] = operator.rows("create", *name, "--mode", "test", "--expires-in", "90d", *limit)
    assert made[SHOWN].startswith("kh_test_")
    assert parse(made[SHOWN]).id == made["key_id"]
    assert (made["state"], made["limit"]) == ("live", "100/s, burst 500")
    [rotated] = operator.rows("rotate", "acme-app/web", "--grace", "1h")
    assert rotated["replaces"] == made["key_id"]
    assert rotated[SHOWN] != made[SHOWN]
    listed = {row["key_id"]: row for row in operator.rows("list", "--project", "acme-app")}
    assert (listed[made["key_id"]]["state"], listed[rotated["key_id"]]["state"]) == ("in grace", "live")
    assert len(listed) == 4
    shown = operator.types("list").stdout
    assert made[SHOWN] not in shown + json.dumps(listed)

    revoked = operator.rows("revoke", "acme-app/web", "--reason", "laptop lost")
    assert {row["outcome"] for row in revoked} == {"revoked"}
    again = operator.rows("revoke", made["key_id"])
    assert [row["outcome"] for row in again] == ["was revoked before"]
    told = operator.told()
    assert told[made["key_id"]].revoked_at
    assert told[rotated["key_id"]].revoked_at
    with psycopg.connect(operator.parts.database_url) as owner:
        entries = owner.execute(
            "SELECT actor, action, details->>'reason' FROM audit.entry WHERE action LIKE 'key.%' AND actor = 'asha' "
            "ORDER BY id"
        ).fetchall()
    assert entries == [
        ("asha", "key.created", None),
        ("asha", "key.rotated", None),
        ("asha", "key.revoked", "laptop lost"),
        ("asha", "key.revoked", "laptop lost"),
    ]


def test_a_key_goes_into_a_private_file_and_the_file_goes_when_nothing_is_made(
    operator: Operator, tmp_path: Path
) -> None:
    file = tmp_path / "key.yaml"
    name = ("--project", "acme-app", "--name", "web")
    [row] = operator.rows("create", *name, "--keys-out", str(file))
    assert SHOWN not in row
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = yaml.safe_load(file.read_text())["keys"]["acme-app/web"]
    assert parse(text).id == row["key_id"]
    over = operator.types("rotate", "acme-app/web", "--keys-out", str(file))
    assert (over.returncode, "exists: name a new file" in over.stderr) == (2, True)
    assert yaml.safe_load(file.read_text())["keys"]["acme-app/web"] == text

    other = tmp_path / "other.yaml"
    taken = operator.types("create", *name, "--keys-out", str(other))
    assert (taken.returncode, "acme-app/web exists" in taken.stderr) == (2, True)
    assert not other.exists()
    nowhere = operator.types("rotate", "acme-app/web", "--keys-out", str(tmp_path / "no" / "file"))
    assert nowhere.returncode == 2
    assert [key["state"] for key in operator.rows("list") if key["key"] == "acme-app/web"] == ["live"]


def test_with_kafka_away_the_change_is_kept_and_told_later(operator: Operator) -> None:
    name = ("--project", "acme-app", "--name", "web")
    away = operator.types("create", *name, "--output", "json", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9")
    assert away.returncode == 69
    assert "khata keys publish" in away.stderr
    [row] = json.loads(away.stdout)  # the key is shown although Kafka was away
    assert row["key_id"] not in operator.told()
    assert operator.rows("publish")[0]["pending"] == 0
    assert row["key_id"] in operator.told()
    assert operator.rows("publish", "--all")[0]["keys_told_again"] == 4


def test_peppers_tell_which_may_go(operator: Operator) -> None:
    new = "new2:" + "6b" * 32
    operator.rows("create", "--project", "acme-app", "--name", "web", KEY_PEPPERS=f"{new},{PEPPERS}")
    rows = {row["pepper"]: row for row in operator.rows("peppers", KEY_PEPPERS=f"{new},{PEPPERS}")}
    assert rows["new2"]["advice"] == "for new keys"
    assert (rows["test1"]["usable_keys"], rows["test1"]["advice"]) == (3, "needed")
    for key in ("acme-app/first", "acme-app/trial", "zenith-app/second"):
        operator.rows("revoke", key)
    rows = {row["pepper"]: row for row in operator.rows("peppers", KEY_PEPPERS=f"{new},{PEPPERS}")}
    assert (rows["test1"]["keys_over"], rows["test1"]["advice"]) == (3, "may be dropped")


def test_a_pepper_that_is_missing_is_told() -> None:
    rows = {row["pepper"]: row["advice"] for row in pepper_rows(["b"], {"a": (2, 1), "c": (0, 3)})}
    assert rows == {"b": "for new keys", "a": "missing: its keys are refused", "c": "gone, and not needed"}


WRONG = {
    ("create", "--project", "nowhere", "--name", "web"): "there is no project nowhere",
    ("create", "--project", "acme-app", "--name", "first"): "exists",
    ("create", "--project", "acme-app", "--name", "No Name"): "cannot be a name",
    ("create", "--project", "acme-app", "--name", "w", "--expires-in", "soon"): "is no duration",
    ("create", "--project", "acme-app", "--name", "w", "--expires-in", "0"): "never works",
    ("create", "--project", "acme-app", "--name", "w", "--burst", "5"): "belong together",
    ("rotate", "acme-app/never"): "there is no key",
    ("rotate", "acme-app/first", "--grace", "9999999d"): "longer than",
    ("revoke", "nobody"): "there is no key",
}


def test_what_cannot_be_done_is_one_sentence_and_changes_nothing(operator: Operator) -> None:
    for arguments, why in WRONG.items():
        done = operator.types(*arguments)
        assert done.returncode == 2, done.stderr
        assert why in done.stderr, arguments
        assert "Traceback" not in done.stderr
    assert len(operator.rows("list")) == 3


def test_a_rotation_by_id_never_replaces_another_key(operator: Operator) -> None:
    [made] = operator.rows("create", "--project", "acme-app", "--name", "web")
    operator.rows("rotate", made["key_id"])
    again = operator.types("rotate", made["key_id"])
    assert again.returncode == 2
    assert "rotated by somebody else" in again.stderr


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("45s", 45), ("30m", 1800), ("24h", 86400), ("90d", 90 * 86400), (" 1h ", 3600)]
)
def test_durations_are_read(text: str, seconds: int) -> None:
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "1", "-1h", "1.5h", "1w", "h", "1 h", "٣h", "99999d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(Usage):
        duration(text)
