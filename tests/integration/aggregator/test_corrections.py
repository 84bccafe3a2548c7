"""Voids and amends: what they do to an event that was counted, wherever and whenever."""

from __future__ import annotations

from decimal import Decimal

from tests.support.corrections import amend, void
from tests.support.usage import counting, stamped


async def test_a_void_takes_its_event_out_of_the_windows_as_if_it_had_never_been(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5), stamped("2", 7))
        await count.apply(void("v", "1"))
        assert await count.windows() == {"requests": (1, Decimal(1)), "tokens": (1, Decimal(7))}
        assert await count.dispositions() == "cck"


async def test_an_amend_replaces_what_its_event_says_and_an_amend_after_it_replaces_that(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5), stamped("2", 7), amend("a", "1", {"tokens": 50}))
        assert (await count.windows())["tokens"] == (2, Decimal(57))
        await count.apply(amend("b", "1", {"tokens": 500}))
        assert await count.windows() == {"requests": (2, Decimal(2)), "tokens": (2, Decimal(507))}
