"""How old the catalogue may be: what it says while Kafka is away, and what a restart finds on disk."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from shared.catalogue import cache_file
from shared.catalogue.cache import CatalogueCache
from shared.catalogue.cache_file import Kept
from shared.contracts.messages.catalogue import (
    ApiKeyMessage,
    CatalogueMessage,
    Limit,
    MeterMessage,
    OrganisationMessage,
    ProjectMessage,
    encode_catalogue,
)
from shared.domain.errors import BrokerAway

TOPIC = "t.catalogue.v1"
KEY = ApiKeyMessage("k1", 3, "acme", "acme-app", True, "00", "p1", ("events:write",), limit=Limit(5, 10))
MESSAGES: list[CatalogueMessage] = [
    OrganisationMessage("acme", 1, "Acme", "INR", "Asia/Kolkata"),
    ProjectMessage("acme-app", 2, "acme", "App"),
    KEY,
    MeterMessage("m", 1, "M", "api.request", "count", None, "unit", True),
]


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def _kept(age: timedelta = timedelta(0), topic: str = TOPIC) -> Kept:
    return Kept(topic, datetime.now(UTC) - age, 17, list(MESSAGES))


async def test_the_last_catalogue_is_used_until_it_is_too_old() -> None:
    clock = Clock()
    cache = CatalogueCache(max_stale_s=3600, clock=clock)
    with pytest.raises(BrokerAway, match="has not been read to its end yet"):
        cache.require_usable()
    cache.seen_end()
    clock.now += 3600
    cache.require_usable()
    assert await cache.check() is None
    clock.now += 1
    with pytest.raises(BrokerAway, match="the catalogue is 3601 s old; INGEST_MAX_STALE_S allows 3600 s"):
        cache.require_usable()
    assert await cache.check() is not None
    cache.seen_end()
    cache.require_usable()


def test_an_end_that_was_asked_for_earlier_never_makes_it_older() -> None:
    clock = Clock()
    cache = CatalogueCache(clock=clock)
    cache.seen_end()
    cache.seen_end(clock.now - 50)
    assert cache.stale_s() == 0


def test_a_restart_works_from_the_copy_and_counts_its_age(tmp_path: Path) -> None:
    file = tmp_path / "catalogue"
    cache_file.write(file, _kept(timedelta(seconds=100)))
    clock = Clock()
    cache = CatalogueCache(max_stale_s=3600, file=file, clock=clock)
    cache.load(TOPIC)
    assert cache.keys == {"k1": KEY}
    assert [meter.id for meter in cache.meters.of_type("api.request")] == ["m"]
    assert cache.version == 17
    assert cache.usable.is_set()
    assert not cache.at_end.is_set()
    assert cache.stale_s() == pytest.approx(100, abs=5)
    clock.now += 3490
    cache.require_usable()
    clock.now += 20
    with pytest.raises(BrokerAway):
        cache.require_usable()


def test_what_only_the_copy_knew_is_forgotten_once_the_topic_is_read(tmp_path: Path) -> None:
    file = tmp_path / "catalogue"
    cache_file.write(file, _kept())
    cache = CatalogueCache(file=file)
    cache.load(TOPIC)
    other = msgspec.structs.replace(KEY, id="k2", version=1)
    cache.learn(encode_catalogue(other), 4)
    assert set(cache.keys) == {"k1"}  # not before the end: the topic may still tell of k1
    assert cache.version == 17
    cache.seen_end()
    assert set(cache.keys) == {"k2"}
    assert cache.projects == {}
    assert cache.version == 5
    cache.learn(encode_catalogue(MESSAGES[3]), 9)
    assert "api.request" in cache.meters.by_type
    assert cache.version == 10


@pytest.mark.parametrize("age", [timedelta(hours=2), timedelta(minutes=-5)])
def test_a_copy_that_is_too_old_or_from_the_future_is_not_used(tmp_path: Path, age: timedelta) -> None:
    file = tmp_path / "catalogue"
    cache_file.write(file, _kept(age))
    cache = CatalogueCache(max_stale_s=3600, file=file)
    cache.load(TOPIC)
    assert not cache.usable.is_set()
    assert cache.keys == {}


def test_the_copy_is_private_and_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "catalogue"
    for _ in range(2):
        cache_file.write(file, _kept())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["catalogue"]
    assert cache_file.read(file, TOPIC) is not None


def test_a_damaged_copy_is_ignored_wherever_the_damage_is(tmp_path: Path) -> None:
    file = tmp_path / "catalogue"
    cache_file.write(file, _kept())
    whole = file.read_bytes()
    damaged = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in range(0, len(whole), 7)]
    for content in (b"", b"\n", whole[:-1], whole + b" ", whole[: len(whole) // 2], os.urandom(500), *damaged):
        file.write_bytes(content)
        assert cache_file.read(file, TOPIC) is None
    file.write_bytes(whole)
    assert cache_file.read(file, TOPIC) is not None


def test_a_copy_of_another_topic_or_open_to_others_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "catalogue"
    cache_file.write(file, _kept())
    assert cache_file.read(file, "other.catalogue.v1") is None
    file.chmod(0o640)
    assert cache_file.read(file, TOPIC) is None
    assert cache_file.read(tmp_path / "none", TOPIC) is None
    assert cache_file.read(tmp_path, TOPIC) is None
