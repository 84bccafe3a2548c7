"""kill -9 at every step beside the batches: a window is dirty or done, a correction waits or is applied."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest

from services.aggregator.apply import Aggregator
from services.aggregator.corrections import of_batch, settle
from shared.domain.errors import DatabaseAway, Fenced
from shared.postgres.pool import Connection
from shared.runtime.failpoints import arm, held
from tests.support.catalogue import DOCUMENT
from tests.support.correction_keeper import keeping
from tests.support.corrections import amend, dirty, told, void
from tests.support.usage import Counting, batch, catalogue_rows, counting, opened, stamped
from tests.support.waiting import eventually

LARGEST = {"id": "largest", "event_type": "gauge", "aggregation": "max", "value_path": "v"}


def gauge(id: str, value: int) -> bytes:
    return stamped(id, data={"v": value}, type="gauge")


async def largest(count: Counting) -> int:
    [(value,)] = await count.rows("SELECT maximum FROM usage.window WHERE meter_id = 'largest'")
    return int(value)


@pytest.mark.failpoints
@pytest.mark.parametrize("point", ["aggregator.dirty.after_refold", "aggregator.dirty.before_commit"])
async def test_a_window_whose_look_is_killed_stays_dirty_and_is_done_by_the_next(
    database_url: str, tmp_path: Path, point: str
) -> None:
    points = tmp_path / "points"
    points.mkdir()
    async with opened(database_url, "khata_catalogue") as database, database.transaction() as connection:
        await catalogue_rows(connection, DOCUMENT | {"meters": [*DOCUMENT["meters"], LARGEST]})
    async with counting(database_url) as count:
        await count.apply(gauge("1", 1), gauge("2", 9), void("v", "2"))
        arm(points, point)
        with keeping(database_url, tmp_path, points) as killed:
            assert await held(points, point) == killed.pid
            killed.kill()
        assert (await dirty(count), await largest(count)) == (1, 9)
        with keeping(database_url, tmp_path):
            await eventually(lambda: dirty(count), lambda left: left == 0)
        assert await largest(count) == 1


@pytest.mark.failpoints("aggregator.waiting.before_commit")
async def test_a_parked_correction_whose_settling_is_killed_is_settled_once_by_the_next(
    database_url: str, tmp_path: Path
) -> None:
    points = tmp_path / "points"
    points.mkdir()
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5), stamped("2", 7))
        await count.apply(void("v", "other"), stamped("3", 1))
        with psycopg.connect(database_url) as owner:  # as two batches leave it that pass each other
            owner.execute(
                "UPDATE usage.correction SET target_id = '1', target_key = (SELECT key FROM usage.identity "
                "WHERE log_offset = 0)"
            )
        arm(points, "aggregator.waiting.before_commit")
        with keeping(database_url, tmp_path, points) as killed:
            assert await held(points, "aggregator.waiting.before_commit") == killed.pid
            killed.kill()
        assert (await told(count))[0][1] == "parked"
        assert (await count.windows())["tokens"] == (3, 13)

        async def waiting() -> int:
            return [row[1] for row in await told(count)].count("parked")

        with keeping(database_url, tmp_path):
            await eventually(waiting, lambda left: left == 0)
        assert (await count.windows())["tokens"] == (2, 8)


async def test_a_batch_of_corrections_whose_sessions_are_ended_again_and_again_corrects_once(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(*(stamped(str(number), 5) for number in range(20)))
        made = batch((0, 20, [amend(f"a{number}", str(number), {"tokens": 6}) for number in range(20)]))
        with psycopg.connect(database_url, autocommit=True) as owner:
            for module, step in ((of_batch.store, "lock_projects"), (settle, "merge_windows"), (settle.store, "store")):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(module, step, _ending(owner, getattr(module, step)))
                    with pytest.raises(DatabaseAway):
                        await count.aggregator.apply(made)
                assert await told(count) == []
        await count.aggregator.apply(made)
        with pytest.raises(Fenced):  # as after a commit whose answer was lost
            await count.aggregator.apply(made)
        assert await count.windows() == {"requests": (20, 20), "tokens": (20, 120)}
        assert len(await told(count)) == 20


def _ending(owner: psycopg.Connection[Any], real: Any) -> Any:
    async def ends(connection: Connection, *arguments: Any) -> Any:
        result = await real(connection, *arguments)
        owner.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        return result

    return ends


async def test_batches_that_correct_one_event_from_two_partitions_at_once_leave_what_one_after_the_other_would(
    database_url: str,
) -> None:
    async with counting(database_url) as count, opened(database_url, "khata_aggregator") as database:
        other = Aggregator(database, count.aggregator.group)
        await count.apply(*(stamped(str(number), 1) for number in range(10)))
        for turn in range(10):
            one, two = (
                batch((partition, turn, [amend(f"{turn}-{partition}", str(turn), {"tokens": 10 + partition})]))
                for partition in (1, 2)
            )
            await asyncio.gather(count.aggregator.apply(one), other.apply(two))
        [(applied, stands)] = await count.rows(
            "SELECT count(*), (SELECT sum((convert_from(data, 'UTF8')::json ->> 'tokens')::int) FROM ("
            "  SELECT DISTINCT ON (target_key) data FROM usage.correction ORDER BY target_key, sequence DESC"
            ") AS last) FROM usage.correction WHERE state = 'applied'"
        )
        assert applied == 20
        assert await count.windows() == {"requests": (10, 10), "tokens": (10, stands)}
