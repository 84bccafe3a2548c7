"""Applying a catalogue: once is enough, twice changes nothing, and a secret is nowhere but where it is shown."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cli.catalogue import CatalogueSettings, apply_file
from shared.catalogue.apply import Applied, apply_catalogue
from shared.catalogue.cache import CatalogueCache
from shared.catalogue.file import parse_catalogue
from shared.catalogue.keys import parse
from shared.contracts.messages.catalogue import ApiKeyMessage, decode_catalogue
from shared.contracts.topics import CATALOGUE
from shared.domain.errors import Usage
from shared.postgres.epoch import version
from shared.postgres.pool import Database
from tests.conftest import Parts
from tests.support.catalogue import DOCUMENT, apply_document
from tests.support.ingest import event, http_door
from tests.support.kafka import read_topic
from tests.support.services import PEPPERS, peppers
from tests.support.usage import opened


async def _apply(database: Database, document: dict[str, Any]) -> Applied:
    async with database.transaction() as connection:
        return await apply_catalogue(connection, parse_catalogue(document, "test"), "catalogue.v1", peppers(), "ops")


def _dump(url: str) -> dict[str, list[Any]]:
    """Everything an apply may write."""
    tables = ("catalogue.organisation", "catalogue.project", "catalogue.meter", "catalogue.api_key", "usage.epoch")
    tables += ("messaging.outbox", "audit.entry")
    query = sql.SQL("SELECT row::text FROM {} AS row ORDER BY 1")
    with psycopg.connect(url) as owner:
        return {table: owner.execute(query.format(sql.Identifier(*table.split(".")))).fetchall() for table in tables}


async def test_applying_twice_changes_nothing_and_makes_no_new_secret(database_url: str) -> None:
    async with opened(database_url, "khata_catalogue") as database:
        first = await _apply(database, DOCUMENT)
        assert set(first.secrets) == {"acme-app/first", "zenith-app/second", "acme-app/trial"}
        assert {change.outcome for change in first.changes} == {"created"}
        before = _dump(database_url)
        second = await _apply(database, DOCUMENT)
        assert second.secrets == {}
        assert {change.outcome for change in second.changes} == {"exists"}
        assert _dump(database_url) == before


async def test_a_changed_name_is_the_next_version_and_audited_and_batches_reload_only_when_they_must(
    database_url: str,
) -> None:
    async with opened(database_url, "khata_catalogue") as database:
        await _apply(database, DOCUMENT)
        async with database.connection() as connection:
            before = await version(connection)
        renamed = {"organisations": [{"id": "acme", "name": "Acme Ltd", "state_code": "29"}]}
        assert [change.outcome for change in (await _apply(database, renamed)).changes] == ["changed"]
        async with database.connection() as connection:
            assert await version(connection) == before
            await _meter(database, "images")
            assert await version(connection) == before + 1
    with psycopg.connect(database_url) as owner:
        assert owner.execute("SELECT name, version FROM catalogue.organisation WHERE id = 'acme'").fetchone() == (
            "Acme Ltd",
            2,
        )
        entry = owner.execute("SELECT actor, action, object_id FROM audit.entry ORDER BY id DESC OFFSET 1").fetchone()
        assert entry == ("ops", "organisation.changed", "acme")


async def _meter(database: Database, id: str) -> None:
    await _apply(database, {"meters": [{"id": id, "event_type": "x", "aggregation": "count"}]})


async def test_two_applies_at_once_make_one_catalogue(database_url: str) -> None:
    async with opened(database_url, "khata_catalogue") as database:
        both = await asyncio.gather(*(_apply(database, DOCUMENT) for _ in range(3)))
    assert sorted(len(applied.secrets) for applied in both) == [0, 0, 3]
    assert len(_dump(database_url)["messaging.outbox"]) == 9


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"projects": [{"id": "acme-app", "organisation": "zenith"}]}, "never moves to another organisation"),
    ({"projects": [{"id": "new", "organisation": "nobody"}]}, "there is no organisation nobody"),
    (
        {"meters": [{"id": "requests", "event_type": "other", "aggregation": "count"}]},
        "another definition, which never changes: give it effective_from",
    ),
    (
        {"organisations": [{"id": "acme", "name": "Acme", "state_code": "29", "currency": "USD"}]},
        "currency and time zone cannot change",
    ),
    (
        {"organisations": [{"id": "acme", "name": "Acme", "state_code": "29", "time_zone": "UTC"}]},
        "currency and time zone cannot change",
    ),
    ({"keys": [{"name": "first", "project": "acme-app", "mode": "test"}]}, "another mode or other scopes"),
    ({"keys": [{"name": "k", "project": "nowhere"}]}, "there is no project nowhere"),
]


async def test_what_contradicts_the_catalogue_is_refused_and_nothing_of_the_file_is_applied(database_url: str) -> None:
    async with opened(database_url, "khata_catalogue") as database:
        await _apply(database, DOCUMENT)
        before = _dump(database_url)
        for document, why in CONTRADICTIONS:
            new = {"organisations": [{"id": "new", "name": "New", "state_code": "29"}]}
            with pytest.raises(Usage, match=why):
                await _apply(database, new | document)
            assert _dump(database_url) == before


async def test_a_dry_run_changes_nothing_and_shows_no_secret(parts: Parts) -> None:
    settings = CatalogueSettings(
        kafka_bootstrap_servers=parts.bootstrap,
        kafka_topic_prefix=parts.prefix,
        database_url=parts.database_url,
        key_peppers=PEPPERS,
    )
    before = _dump(parts.database_url)
    outcome = await apply_file(settings, parse_catalogue(DOCUMENT, "test"), dry_run=True)
    assert {change.outcome for change in outcome.changes} == {"created"}
    assert outcome.secrets == {}
    assert _dump(parts.database_url) == before
    assert await read_topic(parts, parts.kafka.names.topic(CATALOGUE)) == []


async def test_a_secret_is_shown_once_and_stored_nowhere(parts: Parts) -> None:
    applied = await apply_document(parts)
    secrets = [parse(text).secret for text in applied.secrets.values()]
    assert not any(secret in repr(applied) for secret in secrets)
    stored = repr(_dump(parts.database_url)) + repr(await read_topic(parts, parts.kafka.names.topic(CATALOGUE)))
    assert not any(secret in stored or secret.encode().hex() in stored for secret in secrets)
    assert all(parse(text).id in stored for text in applied.secrets.values())
    records = [decode_catalogue(r.value or b"") for r in await read_topic(parts, parts.kafka.names.topic(CATALOGUE))]
    assert len([one for one in records if isinstance(one, ApiKeyMessage)]) == 3


async def test_a_key_made_a_moment_ago_works_at_once_and_so_does_a_meter(parts: Parts) -> None:
    cache, stop = CatalogueCache(), asyncio.Event()
    following = asyncio.create_task(cache.follow(parts.kafka, stop))
    await asyncio.wait_for(cache.at_end.wait(), 10)
    try:
        async with http_door(parts.kafka, cache, {}) as door:
            door.keys.update((await apply_document(parts)).secrets)
            answers = await asyncio.gather(
                *(door.post([event("1"), event("2")], key="acme-app/first") for _ in range(5))
            )
            assert [answer.status_code for answer in answers] == [202] * 5, answers[0].text
            meter = {"id": "images", "event_type": "image.made", "aggregation": "count"}
            await apply_document(parts, {"meters": [meter]})
            assert (await door.post(event(type="image.made"), key="acme-app/first")).status_code == 202
    finally:
        stop.set()
        await following


def test_the_command_writes_new_keys_into_a_private_file_and_never_over_another(parts: Parts, tmp_path: Path) -> None:
    file, keys = tmp_path / "catalogue.json", tmp_path / "keys.yaml"
    file.write_text(json.dumps(DOCUMENT))
    env = os.environ | parts.env | {"KEY_PEPPERS": PEPPERS}
    command = [
        sys.executable,
        "-m",
        "cli",
        "catalogue",
        "apply",
        str(file),
        "--keys-out",
        str(keys),
        "--output",
        "json",
    ]
    first = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert first.returncode == 0, first.stderr
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert keys.read_text().count("kh_live_") == 2
    assert "kh_live_" not in first.stdout + first.stderr
    second = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 2
    assert "exists: name a new file" in second.stderr
