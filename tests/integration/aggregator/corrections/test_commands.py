"""What people see of corrections: commands, the story of an event, metrics."""

from __future__ import annotations

import asyncio
from datetime import datetime

from prometheus_client import REGISTRY

from services.aggregator.corrections import keeper
from services.aggregator.corrections.keeper import Keeper
from services.console.trace import trace_event
from shared.contracts.topics import Names
from shared.domain.period import Month
from shared.postgres.leadership import candidate
from tests.conftest import Parts
from tests.support.catalogue import DOCUMENT
from tests.support.corrections import amend, dirty, void
from tests.support.letters import ask, khata
from tests.support.usage import Counting, catalogue_rows, counting, opened, seal_month, stamped

LARGEST = {"id": "largest", "event_type": "gauge", "aggregation": "max", "value_path": "v"}


async def test_corrections_are_listed_and_shown_with_what_they_did(parts: Parts) -> None:
    async with counting(parts.database_url) as count:
        await count.apply(stamped("1", 5), void("v", "1", reason="sent twice", source="test", keyid="key-1"))
        await count.apply(amend("p", "nothing", {"tokens": 0.1}), void("w", "1"), void("s", "1", subject="bob"))
        await count.apply(stamped("2", 5))
        await seal_month(parts.database_url, Month(2026, 10), "acme")
        await count.apply(amend("late", "2", {"tokens": 1.10}))
    listed = await ask(parts, "corrections", "list")
    assert {(one["id"], one["state"], one["as_or_why"]) for one in listed} == {
        *(("v", "applied", "window"), ("w", "refused", "voided"), ("late", "applied", "adjustment")),
        *(("p", "parked", "target_unknown"), ("s", "parked", "other_subject")),
    }
    [parked] = await ask(parts, "corrections", "list", "--state", "parked", "--code", "other_subject")
    assert (parked["source"], parked["target_id"], parked["subject"], parked["mode"]) == ("test", "1", "bob", "live")
    assert len(await ask(parts, "corrections", "list", "--since", "1h", "--limit", "2")) == 2
    assert await ask(parts, "corrections", "list", "--project", "zenith-app") == []

    shown = await ask(parts, "corrections", "show", "test", "late", "--project", "acme-app")
    assert (shown["kind"], shown["data"], shown["applied_as"]) == ("amend", '{"tokens":1.1}', "adjustment")
    assert [(one["what"], one["meter"], one["sign"], one["value"]) for one in shown["adjustments"]] == [
        *(("made", "tokens", -1, "5"), ("made", "tokens", 1, "1.1")),
    ]
    shown = await ask(parts, "corrections", "show", "test", "v", "-p", "acme-app")
    assert (shown["api_key"], shown["reason"], shown["adjustments"]) == ("key-1", "sent twice", [])
    code, _, err = await khata(parts, "corrections", "show", "test", "none", "-p", "acme-app")
    assert (code, "khata corrections list" in err) == (2, True)
    code, out, _ = await khata(parts, "corrections", "show", "test", "late", "-p", "acme-app")
    assert (code, "adjustments" in out) == (0, True)


async def test_the_story_of_an_event_tells_its_corrections_and_that_of_a_correction_its_target(
    database_url: str,
) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5), amend("a", "1", {"tokens": 6}), void("v", "1"), void("w", "1"))
        await count.apply(void("early", "7"))
        async with opened(database_url, "khata_reader") as database, database.transaction() as connection:

            async def story(id: str) -> dict[str, object]:
                return await trace_event(connection, Names(), "acme-app", True, "test", id)

            event = await story("1")
            corrections = event["corrections"]
            assert isinstance(corrections, list)
            assert [(one["kind"], one["id"], one["state"]) for one in corrections] == [
                *(("amend", "a", "applied"), ("void", "v", "applied"), ("void", "w", "refused")),
            ]
            stages = (await story("a"))["stages"]
            assert isinstance(stages, list)
            assert (stages[-2]["disposition"], stages[-1]["stage"]) == ("correction", "corrects")
            assert (stages[-1]["target_id"], stages[-1]["applied_as"]) == ("1", "window")
            assert isinstance(stages[-1]["at"], datetime)
            waited_for = await story("7")
            assert (waited_for["stages"], len(waited_for["corrections"])) == ([], 1)  # type: ignore[arg-type]


async def test_a_keeper_tells_what_waits_cleans_windows_and_settles(parts: Parts) -> None:
    async with opened(parts.database_url, "khata_catalogue") as database, database.transaction() as connection:
        await catalogue_rows(connection, DOCUMENT | {"meters": [*DOCUMENT["meters"], LARGEST]})
    async with counting(parts.database_url) as count:
        await count.apply(stamped("1", data={"v": 9}, type="gauge"), stamped("2", data={"v": 1}, type="gauge"))
        await count.apply(void("v", "1"), void("w", "nothing"))
        [waiting] = await ask(parts, "corrections", "dirty")
        assert (waiting["meter"], waiting["corrections"]) == ("largest", 1)
        assert await _told(parts, count) == (1, 1)
        assert await dirty(count) == 0
        assert await _told(parts, count) == (0, 1)
        assert REGISTRY.get_sample_value("khata_correction_parked_oldest_seconds") > 0  # type: ignore[operator]


async def _told(parts: Parts, count: Counting) -> tuple[float | None, float | None]:
    """(dirty windows, parked corrections) as one turn of a keeper tells them before its work."""
    one = Keeper(parts.database, Names(), count.database)
    async with candidate(parts.database, keeper.ROLE, "test") as leader:
        await one.turn(leader, asyncio.Event())
    return tuple(map(REGISTRY.get_sample_value, ("khata_dirty_windows", "khata_corrections_parked")))  # type: ignore[return-value]
