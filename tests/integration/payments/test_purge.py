"""What no repetition can reach any more is forgotten; everything younger stays."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from services.payments import purge
from services.payments.collect import CREATE_LINK
from services.payments.purge import Purge
from shared.postgres import inbox, intents
from tests.integration.payments.conftest import Books
from tests.support.waiting import eventually

GROUP = "khata.payments.webhooks"


async def test_old_deliveries_and_links_long_made_are_forgotten_and_nothing_else(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "MOST", 2)
    async with books.database.transaction() as connection:
        for number in range(7):
            await inbox.first_time(connection, GROUP, f"e{number}")
            await intents.intend(connection, CREATE_LINK, f"kh-{number}", "acme", {})
    with psycopg.connect(books.owner_url, autocommit=True) as owner:
        owner.execute(
            "UPDATE messaging.inbox SET received_at = now() - interval '1 day' * (CASE message_id WHEN 'e0' THEN 99 "
            "WHEN 'e1' THEN 1 ELSE 101 END)"
        )
        owner.execute(
            "UPDATE messaging.intent SET updated_at = now() - interval '1 day' * (CASE key WHEN 'kh-0' THEN 399 "
            "ELSE 401 END), state = (CASE key WHEN 'kh-1' THEN 'failed' WHEN 'kh-2' THEN 'pending' ELSE 'done' END)"
        )
    stop = asyncio.Event()
    running = asyncio.create_task(Purge(books.database, GROUP).run(stop))

    left = await eventually(
        lambda: books.rows("SELECT message_id FROM messaging.inbox ORDER BY 1"), lambda rows: len(rows) == 2
    )
    stop.set()
    await running

    assert [row["message_id"] for row in left] == ["e0", "e1"]
    kept = await books.rows("SELECT key FROM messaging.intent ORDER BY 1")
    assert [row["key"] for row in kept] == ["kh-0", "kh-1", "kh-2"]
