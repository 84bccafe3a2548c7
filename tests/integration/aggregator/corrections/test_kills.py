"""kill -9 at every step beside the batches: a window is dirty or done, a correction waits or is applied."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from shared.runtime.failpoints import arm, held
from tests.support.catalogue import DOCUMENT
from tests.support.correction_keeper import keeping
from tests.support.corrections import dirty, told, void
from tests.support.usage import Counting, catalogue_rows, counting, opened, stamped
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
