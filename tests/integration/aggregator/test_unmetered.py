"""Events accepted for a meter that will come: kept with their identity, in no window and on no invoice."""

from __future__ import annotations

from decimal import Decimal

from services.invoicer.verify import verify
from shared.domain.period import Month
from shared.usage.segment import Disposition
from tests.conftest import Parts
from tests.support.billing import NOON, billing
from tests.support.catalogue import DOCUMENT, apply_document
from tests.support.usage import catalogue_rows, counting, opened, seal_month, stamped

VIDEO = {"id": "videos", "event_type": "video.encoded", "aggregation": "sum", "value_path": "seconds"}


def video(id: str, seconds: object = 12, **more: object) -> bytes:
    return stamped(id, data={"seconds": seconds}, type="video.encoded", **({"unmetered": True} | more))


async def test_it_takes_its_identity_and_feeds_no_meter(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(video("1"), video("1"), video("1", 13), stamped("2", 5), video("3", live=False))
        assert await count.dispositions() == "udxct"
        assert await count.windows() == {"requests": (1, Decimal(1)), "tokens": (1, Decimal(5))}
        assert await count.windows(live=False) == {}
        assert len(await count.rows("SELECT 1 FROM usage.identity")) == 3


async def test_what_was_accepted_stays_accepted_whatever_the_setting_is_now(database_url: str) -> None:
    # The project of this catalogue does not allow it (any more): the answer was yes, so it is kept.
    async with counting(database_url) as count:
        await count.apply(video("1"))
        assert await count.dispositions() == "u"


async def test_without_the_mark_of_ingest_an_unknown_type_is_a_dead_letter(parts: Parts) -> None:
    async with counting(parts.database_url, parts.kafka) as count:
        await count.apply(video("1", unmetered=False))
        assert await count.dispositions() == "r"
        assert await count.rows("SELECT 1 FROM usage.identity") == []


async def test_once_the_meter_is_there_new_ones_are_counted_and_the_old_ones_are_not_billed_twice(
    database_url: str,
) -> None:
    async with counting(database_url) as count:
        await count.apply(video("before"))
        async with opened(database_url, "khata_catalogue") as database, database.transaction() as connection:
            await catalogue_rows(connection, DOCUMENT | {"meters": [*DOCUMENT["meters"], VIDEO]})
        await count.apply(video("waiting", 20), video("before"), video("after", 30, unmetered=False))
        assert await count.dispositions() == "ucdc"
        assert await count.windows() == {"videos": (2, Decimal(50))}


async def test_in_a_sealed_month_it_makes_no_adjustment(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("0"))
        await seal_month(database_url, Month(2026, 10), "acme")
        await count.apply(video("1"), stamped("2"))
        assert await count.dispositions() == "cua"
        assert await count.rows("SELECT DISTINCT meter_id FROM usage.adjustment ORDER BY 1") == [
            ("requests",),
            ("tokens",),
        ]


async def test_an_invoice_of_a_month_with_such_events_verifies(parts: Parts) -> None:
    async with billing(parts) as world:
        await world.plant("acme", 1000, 10)
        await world.apply([await world.produce("acme", {"seconds": 12}, NOON, type="video.encoded", unmetered=True)])
        await apply_document(parts, {"meters": [VIDEO | {"billable": False}]})
        await world.apply([await world.produce("acme", {"seconds": 5}, NOON, type="video.encoded")])
        await world.close()
        [report] = await verify(world.database, "test")
        assert report.equal, report.difference
        counted = await world.rows("SELECT count, sum FROM usage.window WHERE meter_id = 'videos'")
        assert counted == [(1, Decimal(5))]
        assert Disposition.UNMETERED.value == "u"
