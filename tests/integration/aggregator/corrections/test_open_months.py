"""Voids and amends while the month is open: windows say what they would if the mistake had never been sent."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import psycopg

from shared.contracts.topics import USAGE_EVENTS
from tests.support.catalogue import DOCUMENT
from tests.support.corrections import amend, told, void
from tests.support.usage import NOON, catalogue_rows, counting, opened, stamped

FILTERED = {
    "id": "good",
    "event_type": "api.request",
    "aggregation": "sum",
    "value_path": "tokens",
    "filters": [{"path": "status", "operator": "in", "values": ["ok"]}],
    "group_by": {"model": "model"},
}


async def test_a_void_takes_its_event_out_as_if_it_had_never_been(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5), stamped("2", 7))
        await count.apply(void("v", "1", reason="sent twice"))
        assert await count.windows() == {"requests": (1, Decimal(1)), "tokens": (1, Decimal(7))}
        assert await count.dispositions() == "cck"
        [row] = await count.rows("SELECT kind, reason, target_partition, target_offset FROM usage.correction")
        assert row == ("void", "sent twice", 0, 0)
        assert len(await count.rows("SELECT 1 FROM usage.identity")) == 3


async def test_windows_whose_events_are_all_taken_back_say_nothing_at_all(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5), void("v", "1"))
        rows = await count.rows("SELECT count, sum, fingerprint_high, fingerprint_low FROM usage.window")
        assert rows == [(0, 0, 0, 0)] * 2


async def test_the_last_amend_stands_and_a_void_is_final(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5), stamped("2", 7), amend("a", "1", {"tokens": 50}))
        assert (await count.windows())["tokens"] == (2, Decimal(57))
        await count.apply(amend("b", "1", {"tokens": "0.5"}))
        assert await count.windows() == {"requests": (2, Decimal(2)), "tokens": (2, Decimal("7.5"))}
        await count.apply(void("v", "1"), amend("c", "1", {"tokens": 9}), void("w", "1"))
        assert (await count.windows())["tokens"] == (1, Decimal(7))
        assert [row[1:] for row in await told(count)] == [
            *(("applied", "window", None),) * 3,
            *(("refused", None, "voided"),) * 2,
        ]


async def test_an_amend_may_move_its_event_to_other_dimensions_in_and_out_of_a_filter(database_url: str) -> None:
    async with opened(database_url, "khata_catalogue") as database, database.transaction() as connection:
        await catalogue_rows(connection, DOCUMENT | {"meters": [*DOCUMENT["meters"], FILTERED]})
    async with counting(database_url) as count:

        async def good() -> dict[str, Decimal]:
            rows = await count.rows("SELECT dimensions, sum FROM usage.window WHERE meter_id = 'good' AND count > 0")
            return dict(rows)

        said = {"tokens": 5, "model": "m", "status": "failed"}
        await count.apply(stamped("1", data=said))
        assert await good() == {}
        await count.apply(amend("a", "1", said | {"status": "ok"}))
        assert await good() == {'{"model":"m"}': 5}
        await count.apply(amend("b", "1", said | {"status": "ok", "model": "n", "tokens": 6}))
        assert await good() == {'{"model":"n"}': 6}
        await count.apply(amend("c", "1", said))
        assert await good() == {}


async def test_a_correction_sent_twice_is_a_duplicate_and_another_under_its_id_a_conflict(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5), amend("a", "1", {"tokens": 6}))
        await count.apply(amend("a", "1", {"tokens": 6.0}), amend("a", "1", {"tokens": 7}), void("a", "1"))
        assert await count.dispositions() == "ckdxx"
        assert (await count.windows())["tokens"] == (1, Decimal(6))


async def test_its_target_sent_again_is_a_duplicate_still_and_its_new_data_a_conflict(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5), stamped("2", 1), amend("a", "1", {"tokens": 6}), void("v", "2"))
        await count.apply(stamped("1", 5), stamped("1", 6), stamped("2", 1))
        assert await count.dispositions() == "cckkdxd"
        assert (await count.windows())["tokens"] == (1, Decimal(6))


async def test_an_amend_that_a_known_targets_meters_do_not_take_is_a_dead_letter_and_leaves_no_identity(
    database_url: str,
) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5))
        await count.apply(amend("a", "1", {"tokens": "many"}), stamped("2", 1), amend("b", "2", {}))
        assert await count.dispositions() == "crcr"
        letters = await count.rows("SELECT headers FROM messaging.outbox WHERE topic = %s", f"{USAGE_EVENTS.name}.dlq")
        codes = [bytes.fromhex(dict(row[0])["dlq.error_code"]).decode() for row in letters]
        assert codes == ["bad_value"] * 2
        assert await told(count) == []
        await count.apply(amend("a", "1", {"tokens": 6}))  # mended, under the same id
        assert (await count.windows())["tokens"] == (2, Decimal(7))


async def test_test_events_are_corrected_apart_from_live_ones(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5), stamped("1", 5, live=False), void("v", "1", live=False))
        assert (await count.windows())["tokens"] == (1, Decimal(5))
        assert (await count.windows(live=False))["tokens"] == (0, Decimal(0))
        assert await count.dispositions() == "ctk"


async def test_a_correction_cannot_be_corrected(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5), void("v", "1"), void("w", "v"), amend("x", "v", {"tokens": 1}))
        assert [row[1:] for row in await told(count)][1:] == [("refused", None, "not_correctable")] * 2
        assert (await count.windows())["tokens"] == (0, Decimal(0))


async def test_an_event_accepted_without_a_meter_stays_uncounted_whatever_corrects_it(database_url: str) -> None:
    async with counting(database_url) as count:
        unmetered = {"type": "video.encoded", "unmetered": True}
        await count.apply(stamped("1", **unmetered), stamped("t", live=False, **unmetered))
        meter = {"id": "videos", "event_type": "video.encoded", "aggregation": "count"}
        async with opened(database_url, "khata_catalogue") as database, database.transaction() as connection:
            await catalogue_rows(connection, DOCUMENT | {"meters": [*DOCUMENT["meters"], meter]})
        await count.apply(amend("a", "1", {}), void("v", "t", live=False))
        assert [row[1:3] for row in await told(count)] == [("applied", "nothing")] * 2
        assert await count.rows("SELECT 1 FROM usage.window") == []


async def test_a_target_that_the_archive_cannot_show_any_more_is_told(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5))
        await count.apply(stamped("2", 6))
        with psycopg.connect(database_url) as owner:
            owner.execute("DELETE FROM usage.segment WHERE first_offset = 0")
            owner.execute("UPDATE usage.segment SET payload = set_byte(payload, 20, get_byte(payload, 20) # 1)")
        count.aggregator._originals.forget()
        await count.apply(void("v", "1"), void("w", "2"))
        rows = await count.rows("SELECT code, explanation FROM usage.correction ORDER BY log_offset")
        assert [row[0] for row in rows] == ["target_unreadable"] * 2
        assert "is not here" in rows[0][1]
        assert "segment of" in rows[1][1]
        assert (await count.windows())["tokens"] == (2, Decimal(11))


async def test_windows_that_a_correction_changed_are_queued_to_be_published(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5))
        await count.apply(stamped("2", 6, time=NOON + timedelta(hours=1)), void("v", "1"))
        rows = await count.rows("SELECT meter_id, hour FROM usage.changed_window ORDER BY meter_id")
        assert rows == [("requests", NOON), ("tokens", NOON)]


async def test_a_correction_whose_identity_was_lost_does_not_replace_a_later_one_when_it_comes_again(
    database_url: str,
) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5), amend("a", "1", {"tokens": 50}), amend("b", "1", {"tokens": 60}))
        with psycopg.connect(database_url) as owner:
            owner.execute("DELETE FROM usage.identity WHERE log_offset = 1")
        await count.apply(amend("a", "1", {"tokens": 50}))
        assert await count.dispositions() == "ckkk"
        assert (await count.windows())["tokens"] == (1, Decimal(60))
