"""The catalogue as ingest knows it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from shared.catalogue.cache import CatalogueCache
from shared.contracts.messages.catalogue import ApiKeyMessage, MeterMessage, ProjectMessage, encode_catalogue

KEY = ApiKeyMessage("k1", 1, "acme", "acme-app", True, "00", "p1", ("events:write",))


def test_lower_versions_are_ignored_so_a_revoked_key_stays_revoked() -> None:
    cache = CatalogueCache()
    revoked = msgspec.structs.replace(KEY, version=2, revoked_at=datetime(2026, 1, 1, tzinfo=UTC))
    for message in (KEY, revoked, KEY):
        cache.learn(encode_catalogue(message))
    assert cache.keys["k1"] == revoked


def test_a_higher_version_replaces_and_the_version_of_the_cache_rises() -> None:
    cache = CatalogueCache()
    cache.learn(encode_catalogue(ProjectMessage("p", 1, "acme", "Old")))
    before = cache.version
    cache.learn(encode_catalogue(ProjectMessage("p", 2, "acme", "New")))
    assert cache.projects["p"].name == "New"
    assert cache.version > before


def test_an_older_meter_version_that_comes_late_does_not_win() -> None:
    cache = CatalogueCache()
    new = MeterMessage("m", 2, "M", "t", "sum", "v", "unit", True)
    for message in (new, msgspec.structs.replace(new, version=1, value_path="old")):
        cache.learn(encode_catalogue(message))
    assert [meter.version for meter in cache.meters.of_type("t")] == [2]


def test_tombstones_and_messages_of_a_newer_khata_are_left_alone() -> None:
    cache = CatalogueCache()
    cache.learn(encode_catalogue(KEY))
    for value in (None, b"", b'{"kind":"plan","id":"x"}', b"\xff", b'{"kind":"project","id":5}'):
        cache.learn(value)
    assert set(cache.keys) == {"k1"}


async def test_it_is_not_ready_before_the_topic_was_read_to_its_end() -> None:
    cache = CatalogueCache()
    assert await cache.check() == "the catalogue has not been read to its end yet"
    cache.seen_end()
    assert await cache.check() is None


@dataclass
class _Counted(CatalogueCache):
    """Counts how often the end of the topic is asked for."""

    asked: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    async def _read_to_end(self) -> None:
        self.asked += 1


async def test_one_batch_asks_for_news_once_however_many_unknown_ids_it_holds() -> None:
    cache = _Counted()
    refresh: Any = cache.refresh_once()
    for _ in range(1000):
        await refresh()
    assert cache.asked == 1
    await cache.refresh_once()()
    assert cache.asked == 2
