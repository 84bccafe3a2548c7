"""A month is not sealed while a spool may hold events of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.invoicer.waivers import waive
from shared.contracts.topics import USAGE_EVENTS
from shared.domain.errors import Retryable
from shared.postgres.outbox import OutboxMessage
from shared.spool.forward import Forwarder
from shared.spool.registry import Publisher, register
from shared.spool.settings import SpoolSettings
from shared.spool.store import Spool
from tests.conftest import Parts
from tests.support.billing import World, billing
from tests.support.usage import opened


async def _spool_with_an_event(world: World, parts: Parts, path: Path) -> Spool:
    """The event is not forwarded, and the spool has said so."""
    spool = await Spool.open(SpoolSettings(spool_path=path, spool_min_free_bytes=0), "edge-1")
    await register(spool, world.producer.send, parts.kafka.names)
    await spool.append([OutboxMessage(parts.kafka.names.topic(USAGE_EVENTS), b"k", b"{}")])
    await Publisher(spool, world.producer.send, parts.kafka.names).publish()
    return spool


async def test_a_close_names_the_spool_it_waits_for_and_goes_on_once_it_has_spoken(
    parts: Parts, tmp_path: Path
) -> None:
    async with billing(parts, wait_s=0.5) as world:
        await world.plant("acme", 1_000_000, 0)
        spool = await _spool_with_an_event(world, parts, tmp_path / "spool.sqlite3")
        with pytest.raises(Retryable, match=f"{spool.id} of edge-1.*khata spools drain") as late:
            await world.close()
        assert "Nothing was sealed" in str(late.value)
        assert await world.rows("SELECT 1 FROM usage.seal") == []

        assert await Forwarder(spool, world.producer.send).forward_once() == 1
        await spool.close()
        with pytest.raises(Retryable, match="has been silent since|holds 1 events"):
            await world.close()


async def test_a_waived_spool_no_longer_stops_the_close(parts: Parts, tmp_path: Path) -> None:
    async with billing(parts, wait_s=0.5) as world:
        await world.plant("acme", 1_000_000, 0)
        spool = await _spool_with_an_event(world, parts, tmp_path / "spool.sqlite3")
        await spool.close()
        async with opened(parts.database_url, "khata_invoicer") as database, database.transaction() as connection:
            await waive(connection, spool.id, "its disk burned", "test")
        assert (await world.close()).outcomes[0].total_minor == 29_500
        assert await world.rows("SELECT action FROM audit.entry WHERE object_kind = 'spool'") == [("spool.waived",)]
