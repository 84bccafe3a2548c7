"""What is planted between two witnesses is found and named; where nothing is planted, nothing is found."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from services.aggregator.reconcile.finding import Check, FindingClass
from shared.contracts.headers import SPOOL
from shared.contracts.messages.spool import SpoolState, encode_spool
from shared.contracts.topics import SPOOLS
from shared.domain.period import Month
from shared.kafka import rewind
from shared.kafka.producer import Producer
from shared.kafka.records import Partition
from shared.postgres.outbox import OutboxMessage
from shared.usage.segment import pack
from tests.conftest import Parts
from tests.support.kafka import send
from tests.support.reconcile import AT, PERIOD, Proving, proving
from tests.support.usage import seal_month, stamped


def event(id: str, tokens: object = 1, **more: Any) -> bytes:
    return stamped(id, tokens, **({"time": AT, "ingestid": "test"} | more))


async def some_usage(prove: Proving) -> None:
    """Every disposition but adjustment and unmetered, in two batches of all partitions."""
    first = await prove.log(
        *(event(f"e{n}", n, subject=f"s{n % 3}") for n in range(20)),
        event("e1", 1, subject="s1"),
        event("e2", 99),
        event("trial", live=False),
        event("bad", "many"),
        event("none", type="nobody.counts"),
        event("other", project="zenith-app", time=AT - timedelta(hours=1)),
    )
    await prove.receipt(first)
    await prove.log(*(event(f"f{n}", n) for n in range(8)), b"{")


async def test_where_nothing_is_wrong_nothing_is_found(parts: Parts) -> None:
    async with proving(parts) as prove:
        await some_usage(prove)
        report = await prove.reconcile()
        assert report.findings.kept == {}
        compared = {line.check: line.compared for line in report.lines}
        assert compared[Check.RECEIPTS]["acknowledged"] == compared[Check.RECEIPTS]["in_log"] == 26
        assert compared[Check.RECEIPTS]["without_receipt"] == 9
        conserved = compared[Check.CONSERVATION]
        assert conserved["records"] == 35
        assert conserved["first_sightings"] == conserved["identities"] == conserved["counted"] + conserved["test"]
        assert (conserved["duplicate"], conserved["conflict"], conserved["rejected"]) == (1, 1, 3)
        assert compared[Check.ARCHIVE]["records"] == 35
        assert compared[Check.WINDOWS]["events"] == 30
        assert compared[Check.WINDOWS]["windows"] > 6
        assert (await prove.reconcile(full=False)).findings.kept == {}
        assert (await prove.reconcile(organisation="acme")).findings.kept == {}


async def test_late_unmetered_and_waiting_test_events_add_up_too(parts: Parts) -> None:
    async with proving(parts) as prove:
        await some_usage(prove)
        await seal_month(parts.database_url, _month(), "acme", topic=prove.topic, group=prove.counting.aggregator.group)
        video = {"type": "video.encoded", "unmetered": True, "data": {"seconds": 2}}
        await prove.log(event("late", 7), event("v1", **video), event("v2", live=False, **video))
        prove.harm(
            "INSERT INTO catalogue.meter (id, name, event_type, aggregation, value_path) "
            "VALUES ('videos', 'v', 'video.encoded', 'sum', 'seconds')"
        )
        prove.harm("UPDATE usage.epoch SET version = version + 1")
        await prove.log(event("v3", live=False, **video), event("v1", **video))
        report = await prove.reconcile()
        assert report.findings.kept == {}
        [conserved] = [line.compared for line in report.lines if line.check is Check.CONSERVATION]
        assert (conserved["adjustment"], conserved["unmetered"]) == (1, 1)
        prove.harm("UPDATE usage.adjustment SET value = value + 1 WHERE meter_id = 'tokens'")
        found = await prove.found()
        assert list(found) == [FindingClass.ADJUSTMENT_DIFFERS]
        assert "late" in found[FindingClass.ADJUSTMENT_DIFFERS][0]


def _month() -> Month:
    return Month.of(AT, ZoneInfo("Asia/Kolkata"))


async def test_a_receipt_that_names_more_than_the_log_has_is_found(parts: Parts) -> None:
    async with proving(parts) as prove:
        records = await prove.log(*(event(f"e{n}") for n in range(10)), keys=1)
        await prove.receipt(records, claims=2)
        found = await prove.found()
        assert list(found) == [FindingClass.RECEIPT_MISSING]
        assert "2 of 12 records that Kafka acknowledged to process test" in found[FindingClass.RECEIPT_MISSING][0]


async def test_what_was_sent_and_never_answered_is_shown_and_no_finding(parts: Parts) -> None:
    async with proving(parts) as prove:
        records = await prove.log(*(event(f"e{n}") for n in range(10)), keys=1)
        await prove.receipt([records[0], records[9]])
        await prove.receipt([records[3]], sequence=4)
        report = await prove.reconcile()
        [line] = [line for line in report.lines if line.check is Check.RECEIPTS]
        assert report.findings.kept == {}
        assert line.compared["missing_receipts"] == {"test": [2, 3]}
        assert line.compared["unanswered"] == 7


async def test_a_spool_that_forwarded_more_than_the_log_has_is_found(parts: Parts) -> None:
    async with proving(parts) as prove:
        producer = Producer(parts.kafka, "test")
        headers = ((SPOOL, b"s1"),)
        await producer.send([OutboxMessage(prove.topic, b"k", event(f"e{n}"), headers) for n in range(3)])
        await producer.stop()
        await prove.log(event("x"))
        for forwarded, expected in ((3, []), (4, [FindingClass.SPOOL_MISSING])):
            await send(parts, parts.kafka.names.topic(SPOOLS), [encode_spool(_spool(forwarded))])
            assert list(await prove.found()) == expected


def _spool(forwarded: int) -> SpoolState:
    return SpoolState(
        spool_id="s1",
        instance="edge",
        as_of=AT,
        oldest_unsent_at=None,
        unsent_events=0,
        unsent_bytes=0,
        set_aside_events=0,
        accepted_total=forwarded,
        forwarded_total=forwarded,
        lost_total=0,
        fingerprint=(0, 0),
        forwarded_fingerprint=(0, 0),
        file_bytes=1,
        cap_bytes=1,
        retired=False,
    )


async def test_a_changed_byte_of_a_segment_is_found(parts: Parts) -> None:
    async with proving(parts) as prove:
        await some_usage(prove)
        prove.harm(
            "UPDATE usage.segment SET payload = set_byte(payload, 20, get_byte(payload, 20) # 1) "
            "WHERE (partition, first_offset) = (SELECT partition, min(first_offset) FROM usage.segment "
            "GROUP BY partition ORDER BY 1 LIMIT 1)"
        )
        found = await prove.found()
        assert FindingClass.ARCHIVE_DAMAGED in found
        assert FindingClass.EVENT_UNREADABLE in found
        assert set(await prove.found(full=False)) >= {FindingClass.EVENT_UNREADABLE}
        assert {one.outcome for one in await prove.repair()} == {"refused"}


async def test_an_archive_that_agrees_with_itself_and_not_with_the_log_is_found(parts: Parts) -> None:
    async with proving(parts) as prove:
        [record] = await prove.log(event("e1", 5))
        forged = [type(record)(*(getattr(record, name) for name in record.__struct_fields__[:5]), event("e1", 6), ())]
        segment = pack(forged, [AT])
        prove.harm("UPDATE usage.segment SET payload = %s, sha256 = %s", segment.payload, segment.sha256)
        found = await prove.found()
        assert set(found) == {FindingClass.ARCHIVE_DIFFERS, FindingClass.WINDOW_DIFFERS}
        assert "event e1" in found[FindingClass.ARCHIVE_DIFFERS][0]


async def test_a_segment_that_is_gone_is_named_with_its_events_and_what_brings_them_back(parts: Parts) -> None:
    async with proving(parts) as prove:
        await prove.log(event("e1"), keys=1)
        await prove.log(event("gone"), keys=1)
        await prove.log(event("e3"), keys=1)
        prove.harm("DELETE FROM usage.segment WHERE first_offset = 1")
        found = await prove.found()
        assert "event gone" in found[FindingClass.ARCHIVE_MISSING][0]
        assert "khata offsets rewind" in found[FindingClass.ARCHIVE_MISSING][0]
        assert {FindingClass.CONSERVATION, FindingClass.IDENTITY_SURPLUS, FindingClass.WINDOW_DIFFERS} <= set(found)
        assert {one.outcome for one in await prove.repair()} == {"refused"}


async def test_a_hole_is_filled_by_a_rewind_and_its_windows_are_left_as_they_are(parts: Parts) -> None:
    async with proving(parts) as prove:
        for name in ("e1", "gone", "e3"):
            [record] = await prove.log(event(name), keys=1)
        windows = await prove.counting.windows()
        prove.harm("DELETE FROM usage.segment WHERE first_offset = 1")
        async with prove.counting.database.transaction() as connection:
            place = Partition(prove.topic, record.partition)
            assert await rewind.store(connection, prove.counting.aggregator.group, place, 1)
        await prove.log(event("e4"), keys=1)
        assert await prove.counting.dispositions(prove.topic) == "cdcc"  # what the archive had is left out
        # The hole's record comes back as a duplicate, because its identity stands; its windows hold it, and keep it.
        assert set(await prove.found()) == {FindingClass.IDENTITY_SURPLUS, FindingClass.WINDOW_DIFFERS}
        assert {one.outcome for one in await prove.repair()} == {"refused"}
        found = await prove.counting.windows()
        assert {meter: (count - 1, total - 1) for meter, (count, total) in found.items()} == windows


async def test_an_identity_that_is_gone_is_named_and_so_is_one_that_nothing_counted(parts: Parts) -> None:
    async with proving(parts) as prove:
        records = await prove.log(event("e1"), event("e2"), event("e3"))
        prove.harm("DELETE FROM usage.identity WHERE key = (SELECT min(key::text)::uuid FROM usage.identity)")
        found = await prove.found()
        assert list(found) == [FindingClass.IDENTITY_MISSING]
        assert "event e" in found[FindingClass.IDENTITY_MISSING][0]
        assert list(await prove.found(full=False)) == [FindingClass.IDENTITY_MISSING]
        prove.harm(
            "INSERT INTO usage.identity VALUES (1, gen_random_uuid(), 0, %s, %s)",
            *(records[0].partition, records[0].offset),
        )
        assert FindingClass.IDENTITY_SURPLUS in await prove.found()


async def test_a_disposition_that_was_changed_is_found_by_identities_and_windows(parts: Parts) -> None:
    async with proving(parts) as prove:
        await prove.log(event("e1"), event("e1"), keys=1)
        prove.harm("UPDATE usage.segment SET dispositions = 'cc'")
        found = await prove.found()
        assert set(found) == {FindingClass.IDENTITY_MISSING, FindingClass.WINDOW_DIFFERS}
        # The identity says which of the two counts: rebuilding from this archive would bill it twice.
        assert {one.outcome for one in await prove.repair()} == {"refused"}


async def test_a_finding_is_one_row_and_ends_when_it_was_looked_for_and_is_gone(parts: Parts) -> None:
    async with proving(parts) as prove:
        await some_usage(prove)
        prove.harm("UPDATE usage.window SET sum = sum + 1 WHERE meter_id = 'tokens' AND subject = 's1'")
        await prove.reconcile(full=False)
        await prove.reconcile(full=False)
        query = "SELECT class, gone_at IS NULL, last_seen > first_seen, meter_id FROM usage.finding"
        assert await prove.counting.rows(query) == [("window_differs", True, True, "tokens")]
        elsewhere = type(PERIOD)(PERIOD.start - timedelta(days=9), PERIOD.start - timedelta(days=8))
        await prove.reconcile(period=elsewhere)
        await prove.reconcile(full=False, organisation="zenith")
        assert await prove.counting.rows(query) == [("window_differs", True, True, "tokens")]
        prove.harm("UPDATE usage.window SET sum = sum - 1 WHERE meter_id = 'tokens' AND subject = 's1'")
        await prove.reconcile(full=False)
        assert await prove.counting.rows(query) == [("window_differs", False, True, "tokens")]
        assert await prove.counting.rows("SELECT sum(findings) FROM usage.reconcile_run") == [(2,)]


async def test_windows_of_older_hours_that_late_events_have_touched_are_looked_at_too(parts: Parts) -> None:
    async with proving(parts) as prove:
        old = AT - timedelta(hours=30)
        await prove.log(event("back", time=old), event("back2", time=old - timedelta(hours=5)), event("now"))
        assert await prove.found(full=False) == {}
        prove.harm("UPDATE usage.window SET sum = sum + 1 WHERE meter_id = 'tokens' AND hour < %s", PERIOD.start)
        assert len((await prove.found(full=False))[FindingClass.WINDOW_DIFFERS]) == 2
        prove.harm("UPDATE usage.window SET sum = sum - 1 WHERE meter_id = 'tokens' AND hour < %s", PERIOD.start)
        assert await prove.found(full=False) == {}
        assert await prove.counting.rows("SELECT count(*) FROM usage.finding WHERE gone_at IS NULL") == [(0,)]
