"""Who reconciles when: one process at a time, each period once, and every process exports what was found."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from services.aggregator.reconcile import schedule
from services.aggregator.reconcile.schedule import LEADERSHIP, export, run_due
from shared.domain.errors import Usage
from shared.observability import names as metrics
from shared.postgres.leadership import candidate
from tests.conftest import ROOT, Parts
from tests.support.reconcile import AT, PERIOD, Proving, proving
from tests.support.usage import stamped
from tests.support.waiting import eventually


def value(metric: Any, label: str) -> float:
    return float(metric.labels(label)._value.get())


async def runs(prove: Proving) -> list[tuple[str, int]]:
    return await prove.counting.rows("SELECT kind, findings FROM usage.reconcile_run ORDER BY id")


async def test_what_is_due_is_done_once_by_whoever_leads_and_everyone_exports_it(parts: Parts) -> None:
    async with proving(parts) as prove:
        old = AT - 2 * schedule.HOUR
        await prove.log(*(stamped(f"e{n}", n, time=old) for n in range(5)))
        prove.harm("UPDATE usage.window SET sum = sum + 1 WHERE meter_id = 'tokens'")
        now = datetime.now(UTC)
        async with candidate(prove.settings, schedule.ROLE, "another") as other:
            assert await other.leads(LEADERSHIP)
            assert await run_due(prove.settings, now) == []
        done = await run_due(prove.settings, now)
        assert [one.kind for one in done] == ["hourly", "daily"]
        assert await run_due(prove.settings, now) == []
        assert [kind for kind, _ in await runs(prove)] == ["hourly", "daily"]
        assert (await runs(prove))[0] == ("hourly", 1)
        await export(prove.counting.database)
        assert value(metrics.RECONCILE_FINDINGS, "window_differs") == 1
        assert value(metrics.RECONCILE_FINDINGS, "receipt_missing") == 0
        assert value(metrics.RECONCILE_SUCCESS_AT, "daily") >= now.timestamp()


async def test_an_aggregator_starts_what_is_due_in_a_process_of_its_own(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in parts.env.items():
        monkeypatch.setenv(name, text)
    async with proving(parts) as prove:
        stop = asyncio.Event()
        keeping = asyncio.create_task(schedule.keep(prove.counting.database, stop, look_every_s=0.05))
        await eventually(lambda: runs(prove), lambda found: len(found) == 2)
        stop.set()
        await asyncio.wait_for(keeping, 10)


async def test_the_command_tells_what_differs_mends_it_and_ends_with_what_is_left(parts: Parts) -> None:
    def khata(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "cli", "usage", *arguments],
            cwd=ROOT, env=os.environ | parts.env, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    period = ("--from", PERIOD.start.isoformat(), "--to", PERIOD.end.isoformat())
    async with proving(parts) as prove:
        await prove.log(*(stamped(f"e{n}", n, time=AT) for n in range(5)))
        code, out, _ = await asyncio.to_thread(khata, "reconcile", *period)
        assert code == 0
        assert "receipts vs log" in out
        assert "Hours that differ" not in out
        prove.harm("DELETE FROM usage.window WHERE meter_id = 'tokens'")
        code, out, remarks = await asyncio.to_thread(khata, "reconcile", *period, "--repair", "--output", "json")
        document = json.loads(out)
        assert code == 1
        assert "--yes" in remarks
        assert [(one["class"], one["meter"]) for one in document["findings"]] == [("window_missing", "tokens")]
        assert [one["outcome"] for one in document["repairs"]] == ["would be repaired"]
        [differs] = document["differences"]
        assert (differs["project"], differs["archive_events"], differs["window_events"]) == ("acme-app", 5, 0)
        code, out, _ = await asyncio.to_thread(
            khata, "reconcile", *period, "--organisation", "acme", "--repair", "--yes", "--output", "json"
        )
        assert code == 0
        assert [one["outcome"] for one in json.loads(out)["repairs"]] == ["repaired"]
        code, out, _ = await asyncio.to_thread(khata, "findings", "list", "--all", "--output", "json")
        [gone] = json.loads(out)
        assert (gone["class"], gone["gone_at"] is not None) == ("window_missing", True)
        with pytest.raises(Usage, match="nobody"):
            await prove.reconcile(organisation="nobody")
