"""What becomes of a correction does not hang on which batch it comes in, nor on who works beside that batch."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest

from services.aggregator import apply as applying
from services.aggregator.corrections.dirty import clean_some
from tests.support.backfill import compared
from tests.support.catalogue import DOCUMENT
from tests.support.corrections import amend, void
from tests.support.usage import TOPIC, catalogue_rows, counting, opened, stamped

FILTERED = {
    **{"id": "filtered", "event_type": "filtered.call", "aggregation": "max", "value_path": "n"},
    "filters": [{"path": "ok", "operator": "exists"}],
}
LARGEST = {"id": "largest", "event_type": "big.call", "aggregation": "max", "value_path": "n"}


async def meters(database_url: str, *more: dict[str, Any]) -> None:
    async with opened(database_url, "khata_catalogue") as database, database.transaction() as connection:
        await catalogue_rows(connection, DOCUMENT | {"meters": [*DOCUMENT["meters"], *more]})


async def test_a_bad_amend_takes_no_other_event_of_its_identity_with_it(database_url: str) -> None:
    bad = {"tokens": "bad"}
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5))
        await count.apply(stamped("c", 100), amend("c", "1", bad))
        assert await count.dispositions() == "ccx"
        await count.apply(amend("a", "1", {"tokens": 6}), amend("a", "1", bad))
        await count.apply(amend("b", "1", {"tokens": 7}))
        await count.apply(amend("b", "1", bad))
        assert await count.dispositions() == "ccxkxkx"
        assert (await count.windows())["tokens"] == (2, Decimal(107))
        await count.apply(amend("d", "1", bad), amend("d", "1", {"tokens": 8}))
        assert await count.dispositions() == "ccxkxkxrk"
        assert (await count.windows())["tokens"] == (2, Decimal(108))


@pytest.mark.parametrize("together", [True, False])
async def test_an_amend_of_an_event_that_a_filter_left_out_changes_nothing(database_url: str, together: bool) -> None:
    """It was accepted before its type had a meter, and applied when the meter left it out."""
    await meters(database_url, FILTERED)
    event = stamped("1", data={"n": 5}, type="filtered.call", unmetered=True)
    correction = amend("a", "1", {"n": 7, "ok": True})
    async with counting(database_url) as count:
        for values in [(event, correction)] if together else [(event,), (correction,)]:
            await count.apply(*values)
        assert await count.dispositions() == "uk"
        assert await count.rows("SELECT state, applied_as FROM usage.correction") == [("applied", "nothing")]
        assert await count.windows() == {}
        assert (await compared(count)).findings.total == 0


@pytest.mark.parametrize(
    "more",
    [
        *({"keyid": 5}, {"ingestedat": "yesterday"}, {"catalogueversion": "x"}, {"specversion": 1}),
        *({"id": "a\0b"}, {"source": "a\0b"}, {"keyid": "a\0"}),
    ],
    ids=lambda more: next(iter(more)) + ("-nul" if "\0" in str(next(iter(more.values()))) else ""),
)
async def test_a_correction_that_ingest_would_not_have_written_is_a_dead_letter(
    database_url: str, more: dict[str, Any]
) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5))
        await count.apply(json.dumps(json.loads(void("v", "1")) | more).encode(), stamped("2", 6))
        assert await count.dispositions() == "crc"


async def test_looking_again_at_windows_and_a_batch_of_corrections_do_not_wait_for_each_other(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def big(id: str, subject: str) -> bytes:
        return stamped(id, data={"n": 5}, type="big.call", subject=subject)

    await meters(database_url, LARGEST)
    async with counting(database_url) as count:
        await count.apply(big("1", "s1"), big("2", "s1"), big("3", "s9"), big("4", "s9"))
        await count.apply(void("v1", "1", subject="s1"), void("v3", "3", subject="s9"))  # both windows are dirty
        merged, waits = asyncio.Event(), asyncio.Event()
        real = applying.store_segments

        async def slow(*arguments: Any) -> None:
            merged.set()
            await asyncio.wait_for(waits.wait(), 20)
            await real(*arguments)

        monkeypatch.setattr(applying, "store_segments", slow)
        # It locks the window of s9 first, for a fresh event, then that of s1, for a correction; the other in order.
        batch = asyncio.create_task(count.apply(big("5", "s9"), void("v2", "2", subject="s1")))
        await merged.wait()
        cleaning = asyncio.create_task(clean_some(count.database, TOPIC, count.aggregator.group))
        await _until_somebody_waits(database_url)
        waits.set()
        await asyncio.gather(batch, cleaning)


async def _until_somebody_waits(database_url: str) -> None:
    async with opened(database_url, "khata_reader") as database, database.connection() as connection:
        async with asyncio.timeout(20):
            while True:
                rows = await connection.execute("SELECT 1 FROM pg_locks WHERE NOT granted")
                if await rows.fetchall():
                    return
                await asyncio.sleep(0.02)
