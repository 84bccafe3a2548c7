"""Many at once, and processes that die at the worst line: one invoice each, numbers without gaps."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from services.invoicer.close import Result
from services.invoicer.draft import draft
from services.invoicer.finalize import finalize
from shared.contracts.topics import INVOICES
from shared.runtime import failpoints
from shared.usage.seal import cut_of, seal
from tests.conftest import Parts
from tests.support.billing import OCTOBER, billing, organisation

CLOSE = (sys.executable, "-c", "from services.invoicer.commands import app; app()", "close", "--month", str(OCTOBER))


async def test_a_hundred_closes_at_once_give_one_invoice(parts: Parts) -> None:
    async with billing(parts, pool_size=20) as world:
        await world.plant("acme", 1_000_000, 0)

        reports = await asyncio.gather(*(world.close() for _ in range(100)))

        assert {report.outcomes[0].number for report in reports} == {"KH/25-26/000001"}
        assert Counter(report.outcomes[0].result for report in reports)[Result.FINALIZED] == 1
        assert await world.rows("SELECT count(*), count(DISTINCT cut_id) FROM usage.seal") == [(1, 1)]
        assert await world.rows("SELECT count(*) FROM usage.cut") == [(1,)]
        assert await world.rows("SELECT count(*) FROM billing.invoice") == [(1,)]
        assert await world.rows("SELECT count(*) FROM messaging.outbox WHERE topic LIKE '%%invoices.v1'") == [(1,)]
        assert await world.rows("SELECT sum(receivable_minor)::int FROM ledger.invoice_balance") == [(29_500,)]
        attempts = dict(await world.rows("SELECT outcome, count(*)::int FROM billing.attempt GROUP BY outcome"))
        assert attempts["created"] == 1
        assert sum(attempts.values()) == 100


async def test_thirty_finalized_at_once_have_dense_numbers_and_dates_that_never_go_back(parts: Parts) -> None:
    names = [f"customer-{number:02}" for number in range(30)]
    async with billing(parts, *(organisation(name) for name in names), pool_size=20) as world:
        group, topic = parts.kafka.names.group("aggregator"), parts.kafka.names.topic(INVOICES)
        await world.prices([{"flat": "fee", "monthly": {"amount": "100.00"}, "description": "Fee"}])
        async with world.database.transaction() as connection:
            await seal(connection, group, "usage", OCTOBER, names)

        async def bill(name: str) -> None:
            async with world.database.transaction() as connection:
                cut = await cut_of(connection, name, OCTOBER)
                assert cut is not None
                drafted = await draft(connection, name, OCTOBER, cut, "test")
            assert drafted is not None
            async with world.database.transaction() as connection:
                await finalize(connection, drafted.invoice_id, topic, "test", world.deps.database_clock)

        await asyncio.gather(*(bill(name) for name in names))

        numbers = [row[0] for row in await world.rows("SELECT number FROM billing.invoice ORDER BY number")]
        assert numbers == [f"KH/25-26/{number:06}" for number in range(1, 31)]
        assert await world.rows("SELECT next_number FROM billing.number_series") == [(31,)]


@pytest.mark.failpoints
@pytest.mark.parametrize("point", ["invoicer.close.after_seal", "invoicer.finalize.before_commit"])
async def test_a_close_killed_there_and_run_again_ends_as_if_it_had_lived(
    parts: Parts, tmp_path: Path, point: str
) -> None:
    async with billing(parts, organisation("acme"), organisation("zenith")) as world:
        await world.plant("acme", 1_000_000, 0)
        await world.plant("zenith", 2_000_000, 0)
        failpoints.arm(tmp_path, point)
        process = subprocess.Popen(  # noqa: ASYNC220
            CLOSE,
            env=os.environ | parts.env | {"KHATA_FAILPOINTS_DIR": str(tmp_path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert await failpoints.held(tmp_path, point) == process.pid
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert await world.rows("SELECT 1 FROM billing.invoice WHERE number IS NOT NULL") == []
        cuts = await world.rows("SELECT cut_id FROM usage.seal ORDER BY organisation_id")
        assert len(cuts) == 2

        report = await world.close()

        assert [(outcome.number, outcome.total_minor) for outcome in report.outcomes] == [
            ("KH/25-26/000001", 29_500),
            ("KH/25-26/000002", 59_000),
        ]
        assert await world.rows("SELECT cut_id FROM usage.seal ORDER BY organisation_id") == cuts
        assert await world.rows("SELECT count(*) FROM messaging.outbox WHERE topic LIKE '%%invoices.v1'") == [(2,)]
        assert await world.rows("SELECT sum(receivable_minor)::int FROM ledger.invoice_balance") == [(88_500,)]
