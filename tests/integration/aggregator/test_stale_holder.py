"""A process frozen in its transaction must not stop everyone: whoever waited for it twice ends its session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from shared.postgres import epoch
from shared.postgres.pool import Connection, Database, direct_connection
from tests.conftest import Parts
from tests.support.usage import opened


@pytest.fixture
async def database(parts: Parts) -> AsyncIterator[Database]:
    async with opened(parts.database_url, "khata_aggregator") as found:
        yield found


async def _frozen(parts: Parts) -> Connection:
    """A session that holds the epoch lock and is busy, as inside a COPY that never goes on."""
    connection = await direct_connection(parts.database, "khata_aggregator", "frozen")
    await connection.execute("BEGIN")
    await epoch.enter_shared(connection)
    return connection


async def test_a_stale_holder_is_ended_and_the_lock_is_free(
    parts: Parts, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoch, "STALE_HOLDER_S", 0.2)
    frozen = await _frozen(parts)
    busy = asyncio.create_task(frozen.execute("SELECT pg_sleep(60)"))
    await asyncio.sleep(0.4)
    async with database.connection() as connection:
        assert await epoch.end_stale_holders(connection) == 1
    with pytest.raises(psycopg.OperationalError):
        await busy
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL lock_timeout = '1s'")
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (epoch._LOCK,))


async def test_a_holder_that_is_not_stale_is_left_alone(parts: Parts, database: Database) -> None:
    frozen = await _frozen(parts)
    async with database.connection() as connection:
        assert await epoch.end_stale_holders(connection) == 0
    await frozen.execute("COMMIT")
    await frozen.close()


async def test_whoever_itself_waits_for_a_lock_is_left_alone(
    parts: Parts, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoch, "STALE_HOLDER_S", 0.2)
    other = await direct_connection(parts.database, "khata_aggregator", "other")
    await other.execute("BEGIN")
    await other.execute("SELECT pg_advisory_xact_lock(77)")
    waiting = await _frozen(parts)
    wait = asyncio.create_task(waiting.execute("SELECT pg_advisory_xact_lock(77)"))
    await asyncio.sleep(0.4)
    async with database.connection() as connection:
        assert await epoch.end_stale_holders(connection) == 0
    await other.execute("COMMIT")
    await wait
    for connection in (other, waiting):
        await connection.close()
