"""Windows that were harmed are found, named by their events, and rebuilt; sealed ones are left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from zoneinfo import ZoneInfo

import psycopg
import pytest

from services.aggregator.reconcile import repair as module
from services.aggregator.reconcile.finding import FindingClass
from shared.domain.identity import identity_key
from shared.domain.meter import AGGREGATIONS
from shared.domain.period import Month
from shared.postgres import epoch
from tests.conftest import Parts
from tests.support.reconcile import AT, Proving, proving
from tests.support.usage import catalogue_rows, opened, seal_month, stamped

METERS = [
    {
        "id": f"m_{aggregation}",
        "event_type": "gauge.read",
        "aggregation": aggregation,
        **({} if aggregation == "count" else {"value_path": "value"}),
    }
    for aggregation in AGGREGATIONS
]


def gauge(id: str, value: int, **more: object) -> bytes:
    return stamped(id, data={"value": value}, type="gauge.read", time=AT + timedelta(seconds=value), **more)


async def with_gauges(prove: Proving) -> list[tuple[object, ...]]:
    """Events for a window of each aggregation; returns all that the windows say."""
    async with opened(prove.parts.database_url, "khata_catalogue") as database, database.transaction() as connection:
        await catalogue_rows(connection, {"meters": METERS})
    await prove.log(*(gauge(f"g{n}", n % 4, subject="sam") for n in range(9)), gauge("t1", 3, live=False))
    return await contents(prove)


async def contents(prove: Proving) -> list[tuple[object, ...]]:
    windows = await prove.counting.rows(
        "SELECT project_id, live, subject, meter_id, hour, count, sum, fingerprint_high, fingerprint_low, "
        "minimum, maximum, latest_time, latest_id, latest_value, moment FROM usage.window WHERE count > 0 "
        "ORDER BY 1, 2, 3, 4, 5"
    )
    distinct = await prove.counting.rows(
        "SELECT live, digest, events FROM usage.distinct_value WHERE events > 0 ORDER BY 1, 2"
    )
    return [*windows, *distinct]


def minus_one_event(prove: Proving) -> None:
    hashed = int.from_bytes(identity_key("acme-app", True, "test", "g5")[:8], "big")
    prove.harm(
        "UPDATE usage.window SET count = count - 1, sum = sum - 1, fingerprint_high = fingerprint_high - %s, "
        "fingerprint_low = fingerprint_low - %s WHERE meter_id = 'm_sum' AND live",
        *(hashed >> 32, hashed & 0xFFFF_FFFF),
    )


def one_event_twice(prove: Proving) -> None:
    hashed = int.from_bytes(identity_key("acme-app", True, "test", "g5")[:8], "big")
    prove.harm(
        "UPDATE usage.window SET count = count + 1, sum = sum + 1, fingerprint_high = fingerprint_high + %s, "
        "fingerprint_low = fingerprint_low + %s WHERE meter_id = 'm_sum' AND live",
        *(hashed >> 32, hashed & 0xFFFF_FFFF),
    )


def statement(text: str) -> Callable[[Proving], None]:
    def harm(prove: Proving) -> None:
        prove.harm(text)

    return harm


PLANTED: list[tuple[Callable[[Proving], None], FindingClass, str]] = [
    (minus_one_event, FindingClass.WINDOW_DIFFERS, "missing: event g5"),
    (one_event_twice, FindingClass.WINDOW_DIFFERS, "counted twice: event g5"),
    (
        statement("UPDATE usage.window SET sum = sum + 100 WHERE meter_id = 'm_sum' AND live"),
        FindingClass.WINDOW_DIFFERS,
        "(sum)",
    ),
    (
        statement("DELETE FROM usage.window WHERE meter_id = 'm_latest' AND live"),
        FindingClass.WINDOW_MISSING,
        "missing: event g",
    ),
    (
        statement(
            "INSERT INTO usage.window SELECT organisation_id, project_id, live, 'nobody', meter_id, meter_version, "
            "dimensions, hour, count, sum, fingerprint_high, fingerprint_low FROM usage.window "
            "WHERE meter_id = 'm_count'"
        ),
        FindingClass.WINDOW_SURPLUS,
        "of nobody",
    ),
    (
        statement("UPDATE usage.distinct_value SET events = events + 1 WHERE live"),
        FindingClass.WINDOW_DIFFERS,
        "(distinct)",
    ),
    (
        statement(
            "DELETE FROM usage.distinct_value WHERE digest = (SELECT min(digest::text)::uuid FROM usage.distinct_value)"
        ),
        FindingClass.WINDOW_DIFFERS,
        "(distinct)",
    ),
    (
        statement("DELETE FROM usage.window WHERE NOT live AND meter_id = 'm_avg'"),
        FindingClass.WINDOW_MISSING,
        "missing: event t1",
    ),
    (
        statement(
            "UPDATE usage.window SET minimum = minimum - 1, maximum = maximum + 1, latest_value = latest_value - 1, "
            "moment = moment + 1"
        ),
        FindingClass.WINDOW_DIFFERS,
        "(moment)",
    ),
]


async def test_every_harm_to_a_window_is_found_named_and_repaired(parts: Parts) -> None:
    async with proving(parts) as prove:
        before = await with_gauges(prove)
        for harm, expected, text in PLANTED:
            harm(prove)
            found = await prove.found(full=False)
            assert list(found) == [expected], text
            assert any(text in each for each in found[expected]), found
            assert {one.outcome for one in await prove.repair(dry_run=True)} == {"would be repaired"}
            assert list(await prove.found(full=False)) == [expected]
            assert {one.outcome for one in await prove.repair()} == {"repaired"}
            assert await prove.found(full=False) == {}
            assert await contents(prove) == before
        [kept] = await prove.counting.rows("SELECT count(*) FROM usage.finding WHERE gone_at IS NULL")
        assert kept == (0,)
        audited = prove.owner.execute(
            "SELECT actor, organisation_id, details FROM audit.entry "
            "WHERE action = 'window.repaired' ORDER BY id LIMIT 1"
        ).fetchone()
        assert audited is not None
        assert audited[:2] == ("tester", "acme")
        assert (audited[2]["before"]["count"], audited[2]["after"]["count"]) == (8, 9)
        assert await prove.found() == {}


async def test_a_sealed_window_is_told_and_not_touched(parts: Parts) -> None:
    async with proving(parts) as prove:
        await with_gauges(prove)
        group = prove.counting.aggregator.group
        month = Month.of(AT, ZoneInfo("Asia/Kolkata"))
        await seal_month(parts.database_url, month, "acme", topic=prove.topic, group=group)
        prove.harm("UPDATE usage.window SET sum = sum + 1 WHERE meter_id = 'm_sum'")
        prove.harm(
            "INSERT INTO usage.window SELECT organisation_id, project_id, live, 'nobody', meter_id, meter_version, "
            "dimensions, hour, count, sum, fingerprint_high, fingerprint_low FROM usage.window "
            "WHERE meter_id = 'm_count' AND live"
        )
        harmed = await contents(prove)
        found = await prove.found(full=False)
        assert set(found) == {FindingClass.WINDOW_SEALED, FindingClass.WINDOW_DIFFERS}  # test usage is never sealed
        assert len(found[FindingClass.WINDOW_SEALED]) == 2
        outcomes = {(one.key.live, one.outcome) for one in await prove.repair()}
        assert outcomes == {(True, "sealed"), (False, "repaired")}
        assert [row for row in await contents(prove) if row[1] is True] == [row for row in harmed if row[1] is True]
        assert list(await prove.found(full=False)) == [FindingClass.WINDOW_SEALED]
        # Whatever the code does: the database does not let it.
        async with prove.counting.database.connection() as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="sealed"):
                await connection.execute(
                    "SELECT usage.remove_window('acme-app', true, 'nobody', 'm_count', 1, '', %s)",
                    (hour_of_nobody(prove),),
                )


def hour_of_nobody(prove: Proving) -> object:
    row = prove.owner.execute("SELECT hour FROM usage.window WHERE subject = 'nobody'").fetchone()
    assert row is not None
    return row[0]


async def test_what_is_applied_while_a_window_is_rebuilt_is_in_it(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proving(parts) as prove:
        await with_gauges(prove)
        prove.harm("UPDATE usage.window SET sum = sum + 1 WHERE meter_id = 'm_sum' AND live")
        real = epoch.enter_exclusive

        async def after_another_batch(connection: module.Connection) -> int:
            monkeypatch.setattr(epoch, "enter_exclusive", real)
            await prove.log(gauge("between", 2, subject="sam"))
            return await real(connection)

        monkeypatch.setattr(epoch, "enter_exclusive", after_another_batch)
        assert [one.outcome for one in await prove.repair()] == ["repaired"]
        assert await prove.found(full=False) == {}
        assert await prove.counting.rows("SELECT count FROM usage.window WHERE meter_id = 'm_sum' AND live") == [(10,)]


async def test_batches_and_repairs_at_once_leave_every_window_exact(parts: Parts) -> None:
    async with proving(parts) as prove:
        await with_gauges(prove)

        async def batches() -> None:
            for turn in range(6):
                await prove.log(*(gauge(f"b{turn}-{n}", n, subject="sam") for n in range(5)))

        async def repairs() -> None:
            for _ in range(4):
                prove.harm("UPDATE usage.window SET sum = sum + 1 WHERE meter_id = 'm_max' AND live")
                await prove.repair()

        await asyncio.gather(batches(), repairs())
        await prove.repair()
        assert await prove.found(full=False) == {}
