"""Everything that counts again agrees with what corrections have made of the windows."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import pytest

from services.aggregator.reconcile import repair as module
from services.aggregator.reconcile.finding import FindingClass
from shared.domain.period import Month
from tests.conftest import Parts
from tests.integration.aggregator.reconcile.test_repair import METERS, contents, gauge
from tests.support.catalogue import DOCUMENT
from tests.support.corrections import amend, clean, dirty, void
from tests.support.reconcile import AT, Proving, proving
from tests.support.usage import catalogue_rows, opened, seal_month

FILTERED = METERS[1] | {
    "id": "filtered",
    "event_type": "filtered.read",
    "filters": [{"path": "ok", "operator": "exists"}],
}


async def corrected(prove: Proving) -> None:
    """Windows of every aggregation with voids and amends, some of which came first."""
    async with opened(prove.parts.database_url, "khata_catalogue") as database, database.transaction() as connection:
        await catalogue_rows(connection, DOCUMENT | {"meters": [*DOCUMENT["meters"], *METERS, FILTERED]})
    await prove.log(void("early", "g0", subject="sam"), *(gauge(f"g{n}", n % 4, subject="sam") for n in range(9)))
    await prove.log(gauge("largest", 50, subject="sam"), keys=1)
    await prove.log(gauge("f1", 1, subject="sam").replace(b"gauge.read", b"filtered.read"), keys=1)
    await prove.log(
        amend("a", "g1", {"value": 8}, subject="sam"),
        amend("b", "f1", {"value": 5, "ok": 1}, subject="sam"),
        void("v", "largest", subject="sam"),
        void("w", "nothing", subject="sam"),
        keys=1,
    )


async def seal_now(prove: Proving) -> None:
    month = Month.of(AT, ZoneInfo("Asia/Kolkata"))
    group = prove.counting.aggregator.group
    await seal_month(prove.parts.database_url, month, "acme", topic=prove.topic, group=group)


async def test_reconciliation_finds_nothing_before_and_after_the_look_and_the_seal(parts: Parts) -> None:
    async with proving(parts) as prove:
        await corrected(prove)
        assert await dirty(prove.counting) > 0
        assert await prove.found() == {}
        await clean(prove.counting, prove.topic)
        assert await dirty(prove.counting) == 0
        assert await prove.found() == {}
        await seal_now(prove)
        await prove.log(gauge("late", 1, subject="sam"), keys=1)
        await prove.log(
            *(void("x", "late", subject="sam"), amend("y", "g1", {"value": 3}, subject="sam")),
            *(void("z", "g4", subject="sam"), amend("q", "f1", {"value": 5}, subject="sam")),
            keys=1,
        )
        assert await prove.found() == {}
        rows = await prove.counting.rows("SELECT applied_as, count(*) FROM usage.correction GROUP BY 1 ORDER BY 1")
        assert rows == [("adjustment", 4), ("window", 4), (None, 1)]


async def test_what_was_changed_behind_the_corrections_is_found(parts: Parts) -> None:
    async with proving(parts) as prove:
        await corrected(prove)
        await clean(prove.counting, prove.topic)
        await seal_now(prove)
        await prove.log(gauge("late", 1, subject="sam"), keys=1)
        await prove.log(void("x", "late", subject="sam"), amend("y", "g5", {"value": 3}, subject="sam"), keys=1)

        async def found(harm: str, of: FindingClass) -> str:
            prove.harm(harm)
            return " ".join((await prove.found(full=False)).get(of, []))

        lost = "DELETE FROM usage.correction WHERE event_id = 'w'"
        assert "corrections from" in await found(lost, FindingClass.CONSERVATION)
        other = "UPDATE usage.adjustment SET value = 7 WHERE sign = 1 AND kind = 'amend' AND meter_id = 'm_max'"
        text = await found(other, FindingClass.ADJUSTMENT_DIFFERS)
        assert "event g5 in acme-app was corrected after its month was sealed, and its adjustments of m_max" in text
        restored = "UPDATE usage.adjustment SET taken_back_by = NULL WHERE kind = 'late' AND meter_id = 'm_sum'"
        assert "event late in acme-app" in await found(restored, FindingClass.ADJUSTMENT_DIFFERS)
        amended = "UPDATE usage.correction SET data = '{\"value\": 9}' WHERE event_id = 'a'"
        assert "m_sum of sam" in await found(amended, FindingClass.WINDOW_SEALED)


async def test_a_repair_rebuilds_windows_with_their_corrections(parts: Parts) -> None:
    async with proving(parts) as prove:
        await corrected(prove)
        await clean(prove.counting, prove.topic)
        before = await contents(prove)
        prove.harm("UPDATE usage.window SET count = count + 1, maximum = 99, sum = sum + 1 WHERE subject = 'sam'")
        outcomes = {one.outcome for one in await prove.repair()}
        assert outcomes == {"repaired"}
        assert await contents(prove) == before
        assert await prove.found() == {}


async def test_a_correction_that_comes_while_a_repair_reads_makes_it_begin_anew(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module._under_lock
    tries = 0

    async def first_corrected(connection: Any, *arguments: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries == 1:
            await prove.log(void("between", "g5", subject="sam"), keys=1)
        return await real(connection, *arguments)

    async with proving(parts) as prove:
        await corrected(prove)
        await clean(prove.counting, prove.topic)
        prove.harm("UPDATE usage.window SET sum = sum + 1 WHERE meter_id = 'm_sum'")
        monkeypatch.setattr(module, "_under_lock", first_corrected)
        monkeypatch.setattr(module, "PAUSE_S", 0.0)
        [repaired] = await prove.repair()
        assert (repaired.outcome, tries) == ("repaired", 2)
        await clean(prove.counting, prove.topic)
        assert await prove.found() == {}


async def test_a_rewind_corrects_nothing_twice(parts: Parts) -> None:
    async with proving(parts) as prove:
        await corrected(prove)
        await clean(prove.counting, prove.topic)
        before = await contents(prove)
        rows = await prove.counting.rows("SELECT * FROM usage.correction ORDER BY key")
        prove.harm("UPDATE messaging.consumer_offset SET next_offset = 0, last_offset = NULL, last_digest = NULL")
        await prove.log(gauge("more", 2, subject="bob"))
        assert {row for row in before if len(row) > 3} <= set(await contents(prove))
        assert await prove.counting.rows("SELECT * FROM usage.correction ORDER BY key") == rows


async def test_a_hole_that_is_filled_from_the_log_corrects_nothing_twice(parts: Parts) -> None:
    """Identities remember what stood in the hole: it comes back as duplicates, corrections among them."""
    async with proving(parts) as prove:
        await corrected(prove)
        await clean(prove.counting, prove.topic)
        before = await contents(prove)
        prove.counting.aggregator._originals.forget()
        prove.harm("DELETE FROM usage.segment")
        prove.harm("UPDATE messaging.consumer_offset SET next_offset = 0, last_offset = NULL, last_digest = NULL")
        await prove.log(gauge("more", 2, subject="bob"))
        assert set(await prove.counting.dispositions(prove.topic)) == {"c", "d"}
        assert {row for row in before if len(row) > 3} <= set(await contents(prove))
        await prove.log(void("late", "g5", subject="sam"), keys=1)  # nobody can tell any more what became of g5
        rows = await prove.counting.rows("SELECT code FROM usage.correction WHERE event_id = 'late'")
        assert rows == [("target_unreadable",)]
