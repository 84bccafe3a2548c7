"""One batch in one transaction: what is counted, what is not, and what is kept of the rest."""

from __future__ import annotations

import asyncio
import contextlib
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from services.aggregator.apply import Aggregator
from shared.contracts.topics import USAGE_EVENTS, dead_letter
from shared.domain.errors import DatabaseAway, Fatal, Fenced
from shared.domain.period import Month
from shared.postgres import outbox
from shared.postgres.pool import Connection
from shared.usage.segment import Disposition
from tests.conftest import Parts
from tests.support.kafka import read_topic
from tests.support.usage import NOON, TOPIC, batch, catalogue_rows, counting, opened, seal_month, stamped

OCTOBER = Month(2026, 10)


async def test_a_retry_with_a_new_timestamp_is_still_a_duplicate(database_url: str) -> None:
    async with counting(database_url) as count:
        late = NOON.replace(day=20)
        await count.apply(stamped("1", 5), stamped("1", 5, time=late, ingestid="other", keyid="k2"))
        await count.apply(stamped("1", 5, time=late), stamped("2", 7))
        await count.apply(stamped("1", 5), partition=3)
        assert await count.windows() == {"requests": (2, Decimal(2)), "tokens": (2, Decimal(12))}
        assert await count.dispositions() == "cddcd"


async def test_a_conflict_leaves_the_first_standing_and_is_kept_and_shown(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5), stamped("1", 6), stamped("1", 5.0))
        await count.apply(stamped("1", 6), stamped("1", 5, subject="bob"), partition=1)
        assert await count.windows() == {"requests": (1, Decimal(1)), "tokens": (1, Decimal(5))}
        assert await count.windows(subject="bob") == {}
        assert await count.dispositions() == "cxdxx"
        shown = await count.rows("SELECT organisation_id, partition, log_offset FROM usage.conflict ORDER BY 2, 3")
        assert shown == [("acme", 0, 1), ("acme", 1, 0), ("acme", 1, 1)]
        both = [
            record for segment in await count.segments() for record, what in segment if what is Disposition.CONFLICT
        ]
        assert stamped("1", 6) in [record.value for record in both]


async def test_test_events_are_apart_from_live_ones_with_the_same_identity(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5), stamped("1", 9, live=False), stamped("1", 9, live=False))
        assert (await count.windows())["tokens"] == (1, Decimal(5))
        assert (await count.windows(live=False))["tokens"] == (1, Decimal(9))
        assert await count.dispositions() == "ctd"


async def test_identities_of_two_projects_or_sources_never_meet(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1"), stamped("1", project="zenith-app"), stamped("1", source="other"))
        assert await count.dispositions() == "ccc"


async def test_sums_in_the_database_are_exact(database_url: str) -> None:
    values = [b"0.1", b"0.2", b"0.000000000000000001", b"10000000000000000000", b"-5", b"-0.3", b"99999999999999999999"]
    async with counting(database_url) as count:
        for number, value in enumerate(values):
            await count.apply(stamped(str(number), data=b'{"tokens":%s}' % value))
        total = (await count.windows())["tokens"]
        assert total == (7, Decimal("109999999999999999994.000000000000000001"))


async def test_after_the_seal_an_event_is_an_adjustment_and_no_window_changes(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1", 5))
        before = await count.rows("SELECT * FROM usage.window ORDER BY meter_id")
        cut = await seal_month(database_url, OCTOBER, "acme")
        assert cut.offsets == {TOPIC: {0: 1}}
        november = NOON.replace(month=11)
        await count.apply(
            stamped("2", 7),
            stamped("1", 5),
            stamped("2", 7),
            stamped("t", live=False),
            stamped("z", project="zenith-app"),
        )
        await count.apply(stamped("3", 1, time=november))
        assert await count.dispositions() == "caddtcc"
        after = await count.rows(
            "SELECT * FROM usage.window WHERE live AND organisation_id = 'acme' AND hour < %s ORDER BY meter_id",
            november,
        )
        assert after == before
        rows = await count.rows("SELECT meter_id, value, log_offset, billed_by FROM usage.adjustment ORDER BY meter_id")
        assert rows == [("requests", 1, 1, None), ("tokens", 7, 1, None)]


async def test_a_zombie_changes_nothing(database_url: str) -> None:
    async with counting(database_url) as count, opened(database_url, "khata_aggregator") as other:
        await count.apply(stamped("1"))
        zombie = Aggregator(other, count.aggregator.group)
        for stale in (
            batch((0, 0, [stamped("x"), stamped("y")])),
            batch((0, 3, [stamped("x")])),
            batch((0, 0, [stamped("x")]), (1, 0, [stamped("y")])),
        ):
            with pytest.raises(Fenced):
                await zombie.apply(stale)
        assert await count.dispositions() == "c"
        assert await count.rows("SELECT count(*) FROM usage.identity") == [(1,)]
        assert await count.rows("SELECT partition, next_offset FROM messaging.consumer_offset") == [(0, 1)]


async def test_an_event_whose_meter_is_gone_leaves_through_the_outbox_and_no_identity_stays(database_url: str) -> None:
    """A redriven event must count once its meter exists, so nothing of it may be remembered."""
    async with counting(database_url) as count:
        unknown = stamped("1", type="image.made", data={"n": 1})
        await count.apply(unknown, stamped("2"), stamped("3", "many"), stamped("4", project="gone"))
        assert await count.dispositions() == "rcrr"
        assert await count.rows("SELECT count(*) FROM usage.identity") == [(1,)]
        letters = await count.rows("SELECT topic, key, value, headers FROM messaging.outbox WHERE topic LIKE '%%.dlq'")
        assert [row[:3] for row in letters] == [
            (f"{TOPIC}.dlq", b"key", value) for value in (unknown, stamped("3", "many"), stamped("4", project="gone"))
        ]
        headers = [{name: bytes.fromhex(text).decode() for name, text in row[3]} for row in letters]
        assert [(one["h"], one["dlq.error_code"], one["dlq.offset"]) for one in headers] == [
            ("1", "unknown_event_type", "0"),
            ("1", "bad_value", "2"),
            ("1", "unknown_project", "3"),
        ]

        async with opened(database_url, "khata_catalogue") as database, database.transaction() as connection:
            meter = {"id": "images", "event_type": "image.made", "aggregation": "sum", "value_path": "n"}
            await catalogue_rows(connection, {"meters": [meter]})
        await count.apply(unknown)
        assert await count.dispositions() == "rcrrc"


async def test_a_malformed_record_leaves_through_the_outbox_as_it_came(parts: Parts) -> None:
    topic = parts.kafka.names.topic(USAGE_EVENTS)
    wrong: list[bytes | None] = [b"{", None, b"\xff\x00", stamped("1", data=b'{"a":' * 70 + b"1" + b"}" * 70)]
    wrong.append(stamped("1").replace(b'"time":"2026-10-15T06:30:00Z"', b'"time":"0001-01-01T00:00:00+14:00"'))
    wrong.append(b"x" * 1_048_000)  # as large as the broker takes
    async with counting(parts.database_url, parts.kafka) as count:
        await count.aggregator.apply(batch((2, 40, [stamped("0"), *wrong]), topic=topic))
        while await outbox.relay_once(count.database, topic + ".dlq", count.producer.publish):
            pass
        assert await count.dispositions(topic) == "crrrrrr"
        [segment] = await count.segments(topic)
        assert [record.value for record in segment.records[1:]] == wrong
    letters = await read_topic(parts, parts.kafka.names.topic(dead_letter(USAGE_EVENTS)))
    assert sorted(letter.value or b"" for letter in letters) == sorted(value or b"" for value in wrong)
    by_offset = {dict(letter.headers)["dlq.offset"]: letter for letter in letters}
    assert by_offset[b"41"].value == b"{"
    assert by_offset[b"42"].value is None
    headers = dict(by_offset[b"43"].headers)
    assert headers.pop("dlq.failed_at")
    assert headers.pop("dlq.version")
    assert headers.pop("dlq.error").startswith(b"not a stamped event")
    assert headers == {
        "h": b"1",
        "dlq.topic": topic.encode(),
        "dlq.partition": b"2",
        "dlq.offset": b"43",
        "dlq.timestamp": b"1003",
        "dlq.group": b"khata.aggregator",
        "dlq.service": b"aggregator",
        "dlq.error_class": b"Rejected",
        "dlq.error_code": b"malformed",
        "dlq.attempt": b"1",
    }


async def test_without_a_broker_dead_letters_wait_and_what_is_good_is_counted(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(stamped("1"), b"{")
        assert await count.dispositions() == "cr"
        assert await count.rows("SELECT value, published_at FROM messaging.outbox WHERE topic LIKE '%%.dlq'") == [
            (b"{", None)
        ]


async def test_a_log_of_events_that_no_meter_knows_stops_the_process_before_any_is_written(database_url: str) -> None:
    async with counting(database_url) as count:
        await count.apply(*[stamped(str(number)) for number in range(400)])
        lost = [stamped(f"lost-{number}", type="image.made") for number in range(600)]
        with pytest.raises(Fatal, match=r"600 of the last 1000 records were rejected"):
            await count.apply(*lost)
        assert await count.rows("SELECT next_offset FROM messaging.consumer_offset") == [(400,)]
        assert await count.rows("SELECT count(*) FROM messaging.outbox WHERE topic LIKE '%%.dlq'") == [(0,)]


async def test_a_batch_whose_sessions_are_ended_again_and_again_is_counted_once(database_url: str) -> None:
    async with counting(database_url) as count:
        made = batch((0, 0, [stamped(str(number), 2) for number in range(200)]))
        ended = 0
        with psycopg.connect(database_url, autocommit=True) as owner:
            for step in ("claim_identities", "merge_windows", "store_segments", "record_conflicts"):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(f"services.aggregator.apply.{step}", _ending(owner, step))
                    with pytest.raises(DatabaseAway):
                        await count.aggregator.apply(made)
                    ended += 1
        await count.aggregator.apply(made)
        with pytest.raises(Fenced):  # as after a commit whose answer was lost
            await count.aggregator.apply(made)
        assert ended == 4
        assert (await count.windows())["tokens"] == (200, Decimal(400))
        assert await count.rows("SELECT count(*), sum(record_count) FROM usage.segment") == [(1, 200)]


def _ending(owner: psycopg.Connection[Any], step: str) -> Any:
    import services.aggregator.apply as module

    real = getattr(module, step)

    async def ends(connection: Connection, *arguments: Any) -> Any:
        result = await real(connection, *arguments)
        owner.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        return result

    return ends


async def test_two_processes_that_race_for_the_same_identities_count_each_once(database_url: str) -> None:
    async with counting(database_url) as one, opened(database_url, "khata_aggregator") as database:
        other = Aggregator(database, one.aggregator.group)
        for turn in range(10):
            ids = [f"{turn}-{number}" for number in range(50)]
            await asyncio.gather(
                _persistent(one.aggregator, batch((0, 50 * turn, [stamped(id) for id in ids]))),
                _persistent(
                    other, batch((1, 50 * turn, [stamped(id, time=NOON.replace(minute=1)) for id in reversed(ids)]))
                ),
            )
        assert (await one.windows())["requests"] == (500, Decimal(500))
        letters = await one.dispositions()
        assert (letters.count("c"), letters.count("d"), len(letters)) == (500, 500, 1000)


async def _persistent(aggregator: Aggregator, made: Any) -> None:
    for _ in range(5):
        with contextlib.suppress(DatabaseAway):
            return await aggregator.apply(made)
    raise AssertionError("still in a deadlock")


async def test_a_changed_byte_of_a_stored_segment_is_noticed(database_url: str) -> None:
    async with counting(database_url) as count:
        made = await count.apply(stamped("1"), stamped("2"), partition=1)
        [segment] = await count.segments()
        assert segment.records == list(made.records)
        with psycopg.connect(database_url) as owner:
            owner.execute("UPDATE usage.segment SET payload = set_byte(payload, 20, get_byte(payload, 20) # 1)")
        with pytest.raises(Fatal, match="segment of"):
            await count.segments()
