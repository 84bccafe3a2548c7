"""A spool whose process is gone is drained, retired or waived by command."""

from __future__ import annotations

import asyncio
from pathlib import Path

from shared.contracts.topics import USAGE_EVENTS
from shared.kafka.producer import Producer
from shared.postgres.outbox import OutboxMessage
from shared.runtime.settings import KafkaSettings
from shared.spool.registry import register
from shared.spool.settings import SpoolSettings
from shared.spool.store import Spool
from tests.support.product import Product


async def fill(product: Product, path: Path, events: int) -> str:
    """A registered spool with events in it, whose process then ends."""
    settings = KafkaSettings(
        kafka_bootstrap_servers=product.env["KAFKA_BOOTSTRAP_SERVERS"],
        kafka_topic_prefix=product.env["KAFKA_TOPIC_PREFIX"],
    )
    producer = Producer(settings, "test")
    spool = await Spool.open(SpoolSettings(spool_path=path, spool_min_free_bytes=0), "gone-1")
    try:
        await register(spool, producer.send, settings.names)
        topic = settings.names.topic(USAGE_EVENTS)
        await spool.append([OutboxMessage(topic, b"k", b"{}") for _ in range(events)])
        return spool.id
    finally:
        await spool.close()
        await producer.stop()


def listed(product: Product, spool: str) -> dict[str, object]:
    rows = {row["spool"]: row for row in product.json("spools", "list")}
    found: dict[str, object] = rows[spool]
    return found


def test_a_spool_is_drained_and_retired_from_its_file(product: Product, tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite3"
    spool = asyncio.run(fill(product, path, 3))
    environment = {"SPOOL_MIN_FREE_BYTES": "0"}
    assert product.json("spools", "drain", str(path), **environment)[0]["forwarded"] == 3
    assert (listed(product, spool)["unsent"], listed(product, spool)["retired"]) == (0, False)
    assert product.json("spools", "retire", str(path), **environment)[0]["retired"] is True
    assert listed(product, spool)["retired"] is True


def test_a_silent_spool_can_be_waived_with_a_reason(product: Product, tmp_path: Path) -> None:
    spool = asyncio.run(fill(product, tmp_path / "spool.sqlite3", 1))
    assert product.khata("spools", "waive", spool).returncode == 2
    done = product.khata("spools", "waive", spool, "--reason", "its disk burned")
    assert done.returncode == 0, done.stderr
    assert product.khata("spools", "waive", "nobody", "--reason", "x").returncode == 2


def test_a_spool_that_is_not_there_is_named(product: Product, tmp_path: Path) -> None:
    done = product.khata("spools", "drain", str(tmp_path / "none"))
    assert done.returncode == 2
    assert "no such spool" in done.stderr
