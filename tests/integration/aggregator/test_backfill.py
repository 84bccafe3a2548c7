"""A new meter counts what was there before it: once, to the event, whatever is killed, corrected or read meanwhile."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from services.aggregator.backfill import commands, store
from services.aggregator.reconcile.repair import repair
from shared.domain.errors import Retryable, Usage
from shared.domain.meter import AGGREGATIONS
from shared.domain.period import Month
from shared.runtime.failpoints import arm, held
from shared.runtime.settings import KafkaSettings
from shared.usage.fold import WindowKey
from tests.conftest import Parts
from tests.support.backfill import compared, fill, make, step, worker, working
from tests.support.corrections import amend, void
from tests.support.usage import NOON, Counting, counting, seal_month, stamped

TWIN = {"id": "twin", "event_type": "api.request", "aggregation": "sum", "value_path": "tokens"}
TWINS = [
    {
        "id": f"twin_{aggregation}",
        "event_type": "api.request",
        "aggregation": aggregation,
        **({} if aggregation == "count" else {"value_path": "tokens"}),
    }
    for aggregation in AGGREGATIONS
]
VIDEOS = {"id": "videos", "event_type": "video.encoded", "aggregation": "sum", "value_path": "seconds"}
SIZES = {"id": "sizes", "event_type": "api.request", "aggregation": "sum", "value_path": "size"}


SUMS = "SELECT hour, count, sum, fingerprint_high, fingerprint_low FROM usage.window WHERE meter_id = %s ORDER BY 1"


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_SEGMENTS", 1)


def video(id: str, seconds: object = 12, **more: object) -> bytes:
    return stamped(id, data={"seconds": seconds}, type="video.encoded", **({"unmetered": True} | more))


async def differences(count: Counting) -> list[str]:
    return [finding.text for finding in (await compared(count)).findings.kept.values()]


async def test_old_events_are_counted_up_to_the_cut_and_later_ones_by_their_batches(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5), stamped("1", 5), stamped("1", 6), stamped("2", 7, live=False))
        await count.apply(stamped("3", 8, subject="bob"), partition=1)
        await make(database_url, TWIN)
        await count.apply(stamped("4", 9), stamped("1", 5))
        assert (await count.windows())["twin"] == (1, Decimal(9))
        assert await differences(count) == []
        assert await step(database_url, count.database)
        assert (await count.windows())["twin"] == (2, Decimal(14))
        assert await differences(count) == []
        await fill(database_url, count.database)
        assert not await step(database_url, count.database)
        assert await differences(count) == []
        for subject, live in (("alice", True), ("bob", True), ("alice", False)):
            windows = await count.windows(subject=subject, live=live)
            assert windows["twin"] == windows["tokens"]
        async with count.database.connection() as connection:
            [told] = await store.listed(connection)
        assert (told.events, told.refused, told.offsets, told.offsets_done) == (3, 0, 5, 5)
        assert told.finished_at is not None


async def test_every_aggregation_says_what_it_would_have_said_from_the_start(database_url: str) -> None:
    rows = "SELECT hour, count, sum, minimum, maximum, latest_id, moment, fingerprint_high FROM usage.window WHERE "
    async with counting(database_url) as count:
        await make(database_url, *({**twin, "id": f"first_{twin['aggregation']}"} for twin in TWINS))
        for turn in range(4):
            await count.apply(
                *(stamped(f"{turn}-{n}", n * 3 % 7, time=NOON + n * timedelta(hours=1)) for n in range(6))
            )
        await make(database_url, *TWINS)
        await count.apply(stamped("late to the party", 100))
        await fill(database_url, count.database)
        for aggregation in AGGREGATIONS:
            first = await count.rows(f"{rows} meter_id = %s ORDER BY 1", f"first_{aggregation}")
            assert await count.rows(f"{rows} meter_id = %s ORDER BY 1", f"twin_{aggregation}") == first
        digests = "SELECT digest, events FROM usage.distinct_value WHERE meter_id = %s ORDER BY hour, digest"
        assert await count.rows(digests, "first_unique_count") == await count.rows(digests, "twin_unique_count")
        assert await differences(count) == []


async def test_events_that_no_meter_counted_are_counted_and_what_the_meter_refuses_is_left_out(
    database_url: str,
) -> None:
    async with counting(database_url) as count:
        await count.apply(video("1", 12), video("2", "no number"), video("3", 5, live=False), stamped("4"))
        await count.apply(stamped("5", data={"tokens": 1, "size": 3}))
        before = await count.dispositions()
        await make(database_url, VIDEOS, SIZES)
        assert await differences(count) == []
        await count.apply(video("6", 1, unmetered=False), stamped("7", data={"tokens": 1, "size": 4}))
        while await step(database_url, count.database):
            assert await differences(count) == []
        windows = await count.windows()
        assert (windows["videos"], windows["sizes"]) == ((2, Decimal(13)), (2, Decimal(7)))
        assert (await count.windows(live=False))["videos"] == (1, Decimal(5))
        assert await count.dispositions() == before + "cc"
        assert await differences(count) == []
        async with count.database.connection() as connection:
            told = {one.meter_id: (one.events, one.refused) for one in await store.listed(connection)}
        assert told == {"videos": (2, 1), "sizes": (1, 1)}


async def test_late_events_of_a_sealed_month_are_not_in_it(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5))
        await seal_month(database_url, Month(2026, 10), "acme")
        await count.apply(stamped("late", 50))
        await make(database_url, TWIN)
        await fill(database_url, count.database)
        assert (await count.windows())["twin"] == (1, Decimal(5))
        assert await differences(count) == []


async def test_a_hole_of_the_archive_that_is_filled_later_is_counted_once(database_url: str) -> None:
    async with counting(database_url) as count:
        batches = [await count.apply(stamped(str(n), n)) for n in range(1, 4)]
        with psycopg.connect(database_url, autocommit=True) as owner:
            owner.execute("DELETE FROM usage.segment WHERE first_offset = 1")
            owner.execute("DELETE FROM usage.identity WHERE log_offset = 1")
            owner.execute("UPDATE usage.window SET count = count - 1")  # as if it had never been applied
            await make(database_url, TWIN)
            owner.execute("UPDATE messaging.consumer_offset SET next_offset = 1")
            with pytest.raises(Usage, match="read again"):
                await make(database_url, SIZES)
            await count.aggregator.apply(batches[1])
            assert (await count.windows())["twin"] == (1, Decimal(2))
            await fill(database_url, count.database)
            assert (await count.windows())["twin"] == (3, Decimal(6))


@pytest.mark.parametrize("seed", range(2))
async def test_events_that_are_corrected_before_while_and_after_are_folded_as_they_stand(
    database_url: str, seed: int
) -> None:
    """The twin of a meter that was there from the start says what that one says, at the end."""
    dice = random.Random(seed)
    async with counting(database_url) as count:
        sent: list[str] = []
        made = False
        for turn in range(24):
            some = [f"{turn}-{n}" for n in range(dice.randint(1, 4))]
            values = [stamped(id, dice.randint(1, 99)) for id in some]
            for n in range(dice.randint(0, 2)):
                target = dice.choice(sent + some)
                values.append(
                    void(f"v{turn}.{n}", target)
                    if dice.random() < 0.4
                    else amend(f"a{turn}.{n}", target, {"tokens": dice.randint(100, 999)})
                )
            await count.apply(*values)
            sent += some
            if turn == 12:
                await make(database_url, TWIN)
                made = True
            elif made and dice.random() < 0.5:
                await step(database_url, count.database)
                assert await differences(count) == []
        await fill(database_url, count.database)
        windows = await count.windows()
        assert windows["twin"] == windows["tokens"]
        assert await count.rows(SUMS, "twin") == await count.rows(SUMS, "tokens")
        assert await differences(count) == []


async def test_a_correction_of_an_event_that_no_meter_counted_is_in_what_the_new_meter_counts(
    database_url: str,
) -> None:
    async with counting(database_url) as count:
        await count.apply(video("1", 1), video("2", 2), video("3", 3), video("4", 4))
        await count.apply(void("v1", "1"), amend("a2", "2", {"seconds": 20}))
        await make(database_url, VIDEOS)
        await count.apply(void("v3", "3"))
        await fill(database_url, count.database)
        assert (await count.windows())["videos"] == (2, Decimal(24))
        assert await differences(count) == []
        await count.apply(amend("a4", "4", {"seconds": 40}), void("v2", "2"))
        assert (await count.windows())["videos"] == (1, Decimal(40))
        assert await differences(count) == []


@pytest.mark.failpoints("aggregator.backfill.before_commit", "aggregator.backfill.after_commit")
async def test_killed_there_no_slice_is_counted_twice_or_not_at_all(parts: Parts, tmp_path: Path) -> None:
    points = tmp_path / "points"
    points.mkdir()
    async with counting(parts.database_url) as count:
        for turn in range(12):
            await count.apply(*(stamped(f"{turn}-{n}", n) for n in range(5)), partition=turn % 2)
        for point in ("aggregator.backfill.before_commit", "aggregator.backfill.after_commit"):
            twin = TWIN | {"id": point.replace(".", "_")}
            arm(points, point)
            await make(parts.database_url, twin)
            with working(parts, tmp_path, points) as killed:
                assert await held(points, point) == killed.pid
                killed.kill()
            await count.apply(stamped(f"meanwhile {point}"))
            await fill(parts.database_url, count.database)
            windows = await count.windows()
            assert windows[str(twin["id"])] == windows["tokens"]
            assert await differences(count) == []


async def test_two_workers_count_each_slice_once(database_url: str) -> None:
    async with counting(database_url) as count:
        for turn in range(6):
            await count.apply(stamped(str(turn), turn))
        await make(database_url, TWIN)
        one, other = worker(database_url, count.database), worker(database_url, count.database)
        async with count.database.connection() as connection:
            [left] = await store.stretches(connection)
        work = await one._work(left.cut_id)
        await one._slice(left, work)
        await other._slice(left, work)  # read before the other had moved the progress
        await fill(database_url, count.database)
        windows = await count.windows()
        assert windows["twin"] == windows["tokens"] == (6, Decimal(15))


async def test_a_damaged_segment_stops_it_and_nothing_of_the_slice_is_counted(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5))
        await make(database_url, TWIN)
        with psycopg.connect(database_url, autocommit=True) as owner:
            owner.execute("UPDATE usage.segment SET sha256 = '\\x00'")
            with pytest.raises(Exception, match="checksum"):
                await fill(database_url, count.database)
        assert "twin" not in await count.windows()
        with pytest.raises(Retryable, match="twin is new"):
            await seal_month(database_url, Month(2026, 10), "acme")


async def test_windows_of_a_meter_that_is_being_filled_are_not_repaired(parts: Parts) -> None:
    async with counting(parts.database_url) as count:
        await count.apply(stamped("1", 5))
        await count.apply(stamped("2", 5), partition=1)
        await make(parts.database_url, TWIN)
        await step(parts.database_url, count.database)
        [row] = await count.rows(
            "SELECT project_id, live, subject, meter_id, meter_version, dimensions, hour "
            "FROM usage.window WHERE meter_id = 'twin'"
        )
        key = WindowKey("acme", *row)
        settings = KafkaSettings(kafka_bootstrap_servers=parts.bootstrap)
        [found] = await repair(settings, count.database, [key], "tester", dry_run=False)
        with psycopg.connect(parts.database_url, autocommit=True) as owner:
            owner.execute("UPDATE usage.window SET sum = sum + 1 WHERE meter_id = 'twin'")
        [found] = await repair(settings, count.database, [key], "tester", dry_run=False)
        assert (found.outcome, "back-filled" in found.why) == ("refused", True)
        await fill(parts.database_url, count.database)
        [found] = await repair(settings, count.database, [key], "tester", dry_run=False)
        assert found.outcome == "repaired"
        assert (await count.windows())["twin"] == (2, Decimal(10))


async def test_only_a_new_meter_is_filled_and_applying_it_again_changes_nothing(database_url: str) -> None:
    async with counting(database_url) as count:
        await make(database_url, TWIN)  # of an empty log: nothing to do
        await make(database_url, TWIN)
        assert await count.rows("SELECT finished_at IS NOT NULL FROM usage.backfill") == [(True,)]
        with pytest.raises(Usage, match="only a new meter"):
            await make(database_url, TWIN | {"value_path": "other"})
        with pytest.raises(Usage, match="effective_from"):
            await make(database_url, TWIN | {"id": "other", "effective_from": "2099-01-01T00:00:00Z"})
        with pytest.raises(Usage, match="effective_from"):
            await make(database_url, TWIN | {"id": "other"}, backfill=False)


async def test_the_commands_tell_how_far_it_is(parts: Parts) -> None:
    def khata(*arguments: str) -> tuple[int, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "cli", "meters", "backfill", *arguments, "--output", "json"],
            env=parts.env,
            capture_output=True,
            text=True,
            timeout=30,
        )
        return done.returncode, json.loads(done.stdout) if done.returncode == 0 else done.stderr

    async with counting(parts.database_url) as count:
        await count.apply(*(stamped(str(n)) for n in range(4)))
        await make(parts.database_url, TWIN)
        code, [line] = khata("list")
        assert (code, line["meter"], line["state"], line["percent"]) == (0, "twin", "running", 0)
        with pytest.raises(Retryable, match="0 of 4 offsets.*khata run aggregator"):
            await commands._wait(parts.database, "twin", 0, lambda _: None)
        told: list[int] = []
        waiting = asyncio.create_task(
            commands._wait(parts.database, "twin", 20, lambda one: told.append(one.offsets_done))
        )
        await fill(parts.database_url, count.database)
        assert (await waiting).finished_at is not None
        assert told[-1] == 4
        with pytest.raises(Usage, match="was not back-filled"):
            await commands._wait(parts.database, "requests", 0, lambda _: None)
        shown = khata("show", "twin")[1]
        assert (shown["events"], shown["partitions"]) == (
            4,
            [{"partition": 0, "start": 0, "next": 4, "end": 4, "left": 0}],
        )
