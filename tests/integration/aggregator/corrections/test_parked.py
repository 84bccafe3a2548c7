"""Corrections that come before their target wait for it, and only for it."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import psycopg
import pytest

from services.aggregator.apply import Aggregator
from services.aggregator.corrections import store
from services.aggregator.corrections.waiting import BEGINNING, look_again
from shared.contracts.topics import USAGE_EVENTS
from shared.postgres.pool import Connection
from tests.support.catalogue import DOCUMENT
from tests.support.corrections import amend, told, void
from tests.support.usage import TOPIC, batch, catalogue_rows, counting, opened, stamped

PARKED = ("parked", None, "target_unknown")
APPLIED = ("applied", "window", None)


async def test_a_correction_waits_for_its_target_and_is_applied_by_the_batch_that_brings_it(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(amend("a", "1", {"tokens": 6}), void("v", "2"))
        assert [row[1:] for row in await told(count)] == [PARKED] * 2
        assert await count.windows() == {}
        await count.apply(stamped("3", 1))
        assert [row[1:] for row in await told(count)] == [PARKED] * 2
        await count.apply(stamped("1", 5), stamped("2", 7))
        assert [row[1:] for row in await told(count)] == [APPLIED] * 2
        assert await count.windows() == {"requests": (2, Decimal(2)), "tokens": (2, Decimal(7))}
        assert await count.dispositions() == "kkccc"


async def test_so_many_may_wait_that_they_are_not_looked_at_one_by_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_AWAITED", 2)
    async with counting(database_url) as count:
        await count.apply(*(void(f"v{number}", str(number)) for number in range(3)))
        await count.apply(stamped("1", 5), stamped("9", 1))
        assert [row[1] for row in await told(count)] == ["parked", "applied", "parked"]
        await count.apply(stamped("2", 5), stamped("0", 1))
        assert [row[1] for row in await told(count)] == ["applied"] * 3
        assert (await count.windows())["tokens"] == (1, Decimal(1))


async def test_within_one_batch_it_makes_no_difference_which_comes_first(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(amend("a", "1", {"tokens": 6}), stamped("1", 5), amend("b", "1", {"tokens": 7}))
        assert [row[1:] for row in await told(count)] == [APPLIED] * 2
        assert (await count.windows())["tokens"] == (1, Decimal(7))


async def test_those_that_waited_are_applied_in_order_of_the_log_before_those_of_the_batch(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(amend("a", "1", {"tokens": 10}))
        await count.apply(void("v", "1"))
        await count.apply(amend("b", "1", {"tokens": 20}), stamped("1", 5))
        assert [row[1:] for row in await told(count)] == [APPLIED, APPLIED, ("refused", None, "voided")]
        assert (await count.windows())["tokens"] == (0, Decimal(0))


async def test_bad_data_of_one_that_waited_is_refused_where_people_see_it(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(amend("a", "1", {"tokens": "many"}))
        await count.apply(stamped("1", 5))
        assert await told(count) == [("a", "refused", None, "bad_value")]
        assert (await count.windows())["tokens"] == (1, Decimal(5))


async def test_another_project_mode_or_subject_never_finds_the_target(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5))
        await count.apply(
            *(void("p", "1", project="zenith-app"), void("m", "1", live=False), void("s", "1", subject="bob")),
        )
        await count.apply(void("t", "2", subject="bob"))
        await count.apply(stamped("2", 1))
        assert [row[1:] for row in await told(count)] == [
            *(PARKED, PARKED, ("parked", None, "other_subject"), ("parked", None, "other_subject")),
        ]
        assert (await count.windows())["tokens"] == (2, Decimal(6))


async def test_a_target_that_is_refused_at_first_is_corrected_when_it_is_redriven(database_url: str) -> None:
    async with counting(database_url) as count:
        image = stamped("1", type="image.made", data={"n": 1})
        await count.apply(amend("a", "1", {"n": 3}), image)
        assert await count.dispositions() == "kr"
        assert [row[1:] for row in await told(count)] == [PARKED]
        meter = {"id": "images", "event_type": "image.made", "aggregation": "sum", "value_path": "n"}
        async with opened(database_url, "khata_catalogue") as database, database.transaction() as connection:
            await catalogue_rows(connection, DOCUMENT | {"meters": [*DOCUMENT["meters"], meter]})
        await count.apply(image)
        assert (await count.windows())["images"] == (1, Decimal(3))


async def test_batches_of_two_partitions_that_pass_each_other_leave_it_to_the_next_look(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def hold(name: str) -> None:
        if name == "aggregator.batch.before_commit" and not entered.is_set():
            entered.set()
            await go_on.wait()

    monkeypatch.setattr("services.aggregator.apply.failpoint", hold)
    async with counting(database_url) as count, opened(database_url, "khata_aggregator") as database:
        flying = asyncio.create_task(
            Aggregator(database, count.aggregator.group).apply(batch((1, 0, [stamped("1", 5)])))
        )
        await entered.wait()
        await count.apply(void("v", "1"))
        go_on.set()
        await flying
        assert [row[1:] for row in await told(count)] == [PARKED]
        # Two look at once: one settles it, the other finds nothing to do.
        await asyncio.gather(look_again(database, TOPIC), look_again(count.database, TOPIC))
        assert [row[1:] for row in await told(count)] == [APPLIED]
        assert (await count.windows())["tokens"] == (0, Decimal(0))


async def test_one_that_is_settled_while_a_batch_waits_for_the_lock_is_not_settled_twice(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with counting(database_url) as count, opened(database_url, "khata_aggregator") as database:
        other = Aggregator(database, count.aggregator.group)
        await count.apply(stamped("1", 5), stamped("2", 6), amend("a", "other", {"tokens": 50}))
        with psycopg.connect(database_url) as owner:  # as two batches leave it that pass each other
            owner.execute(
                "UPDATE usage.correction SET target_id = '1', target_key = (SELECT key FROM usage.identity "
                "WHERE log_offset = 0)"
            )
        real = store.lock_projects

        async def settled_first(connection: Connection, projects: set[str]) -> None:
            monkeypatch.undo()
            await look_again(database, TOPIC)
            await other.apply(batch((1, 0, [amend("b", "1", {"tokens": 60})])))
            await real(connection, projects)

        monkeypatch.setattr(store, "lock_projects", settled_first)
        await count.apply(stamped("1", 5))
        assert await count.dispositions() == "cckdk"
        assert (await count.windows())["tokens"] == (2, Decimal(66))


async def test_looking_again_goes_page_by_page_and_passes_over_those_whose_target_is_not_here(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.aggregator.corrections.waiting.PAGE", 2)
    async with counting(database_url) as count:
        await count.apply(*(void(f"v{number}", f"{number}") for number in range(5)))
        after, pages = BEGINNING, 0
        while pages == 0 or after != BEGINNING:
            after = await look_again(count.database, TOPIC, after)
            pages += 1
        assert pages == 3
        assert [row[1:] for row in await told(count)] == [PARKED] * 5


async def test_without_any_a_batch_asks_one_question(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for name in ("parked", "lock_projects", "known", "applied"):
        real = getattr(store, name)

        async def seen(*arguments: object, name: str = name, real: object = real) -> object:
            asked.append(name)
            return await real(*arguments)  # type: ignore[operator]

        monkeypatch.setattr(store, name, seen)
    async with counting(database_url) as count:
        await count.apply(stamped("1"), stamped("2"))
        assert asked == []
        await count.apply(void("v", "1"))
        assert asked == ["lock_projects", "known", "applied"]
    assert USAGE_EVENTS.name == TOPIC
