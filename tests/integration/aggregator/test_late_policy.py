"""`late: reject`: once a month is sealed, the meter takes nothing more of it."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from shared.contracts.topics import USAGE_EVENTS
from shared.domain.errors import Usage
from shared.domain.period import Month
from tests.support.catalogue import DOCUMENT
from tests.support.corrections import amend, signed, told, void
from tests.support.usage import NOON, catalogue_rows, counting, opened, seal_month, stamped

OCTOBER = Month(2026, 10)
STRICT = {"id": "strict", "event_type": "strict.call", "aggregation": "sum", "value_path": "n", "late": "reject"}
MIXED = [
    {"id": "mixed_strict", "event_type": "mixed.call", "aggregation": "sum", "value_path": "n", "late": "reject"},
    {"id": "mixed", "event_type": "mixed.call", "aggregation": "sum", "value_path": "n"},
]


async def meters(database_url: str, *more: dict[str, Any]) -> None:
    async with opened(database_url, "khata_catalogue") as database, database.transaction() as connection:
        await catalogue_rows(connection, DOCUMENT | {"meters": [*DOCUMENT["meters"], *more]})


def strict(id: str, n: int, **more: Any) -> bytes:
    return stamped(id, data={"n": n}, **({"type": "strict.call"} | more))


async def test_an_event_that_no_meter_takes_any_more_is_a_dead_letter_without_an_identity(database_url: str) -> None:
    await meters(database_url, STRICT)
    async with counting(database_url) as count:
        await count.apply(strict("1", 5))
        await seal_month(database_url, OCTOBER, "acme")
        await count.apply(strict("2", 6), stamped("3", 1), strict("t", 1, live=False))
        assert await count.dispositions() == "crat"
        [(headers,)] = await count.rows(
            "SELECT headers FROM messaging.outbox WHERE topic = %s", f"{USAGE_EVENTS.name}.dlq"
        )
        assert bytes.fromhex(dict(headers)["dlq.error_code"]) == b"sealed"
        assert len(await count.rows("SELECT 1 FROM usage.identity")) == 3
        assert await signed(count, "strict") == []


async def test_a_retry_of_what_was_counted_is_a_duplicate_however_late_it_comes(database_url: str) -> None:
    await meters(database_url, STRICT)
    async with counting(database_url) as count:
        await count.apply(strict("1", 5))
        await seal_month(database_url, OCTOBER, "acme")
        await count.apply(strict("1", 5), strict("1", 6))
        assert await count.dispositions() == "cdx"


async def test_an_event_of_two_meters_is_an_adjustment_of_the_one_that_takes_it(database_url: str) -> None:
    await meters(database_url, *MIXED)
    async with counting(database_url) as count:
        await count.apply(strict("1", 5, type="mixed.call"))
        await seal_month(database_url, OCTOBER, "acme")
        await count.apply(strict("2", 6, type="mixed.call"), amend("a", "1", {"n": 7}), amend("b", "2", {"n": 8}))
        await count.apply(strict("3", 9, type="mixed.call"))
        assert await count.dispositions() == "cakka"
        assert await signed(count, "mixed_strict") == []
        assert sorted(await signed(count, "mixed")) == [
            *(("amend", -1, 5), ("amend", 1, 7), ("amend", 1, 8), ("late", 1, 9)),
        ]


async def test_a_correction_after_the_seal_is_not_taken_either(database_url: str) -> None:
    await meters(database_url, STRICT)
    async with counting(database_url) as count:
        await count.apply(amend("early", "2", {"n": 1}), strict("1", 5), strict("2", 6))
        await seal_month(database_url, OCTOBER, "acme")
        await count.apply(amend("a", "1", {"n": 7}), void("v", "1"))
        assert await count.dispositions() == "kccrk"
        assert (await told(count))[1:] == [("v", "refused", None, "sealed")]
        assert (await count.windows())["strict"] == (2, Decimal(6))


async def test_the_policy_is_part_of_the_definition_which_never_changes(database_url: str) -> None:
    await meters(database_url, STRICT)
    with pytest.raises(Usage, match="effective_from"):
        await meters(database_url, STRICT | {"late": "next_invoice"})
    with pytest.raises(Usage, match="late"):
        await meters(database_url, STRICT | {"id": "other", "late": "sometimes"})


async def test_where_batches_are_cut_decides_nothing_about_a_retry_with_another_time(database_url: str) -> None:
    await meters(database_url, STRICT)
    november = NOON + timedelta(days=31)
    async with counting(database_url) as count:
        await count.apply(strict("0", 1))
        await seal_month(database_url, OCTOBER, "acme")
        await count.apply(strict("1", 5, time=november), strict("1", 5))
        await count.apply(strict("2", 5, time=november))
        await count.apply(strict("2", 5))
        await count.apply(strict("3", 5), strict("3", 5, time=november))
        assert await count.dispositions() == "ccdcdrc"
