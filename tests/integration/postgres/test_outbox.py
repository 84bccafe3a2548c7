"""The outbox: in order, after the commit, and again when nobody knows whether it was published."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg
import pytest
from pydantic import SecretStr

from shared.kafka.producer import Producer
from shared.kafka.relay import relay
from shared.postgres import outbox
from shared.postgres.outbox import OutboxMessage
from shared.postgres.pool import Database, direct_connection
from shared.runtime.settings import DatabaseSettings
from tests.support.usage import NOWHERE, opened
from tests.support.waiting import eventually

TOPIC = "payments.v1"


def message(value: str, topic: str = TOPIC) -> OutboxMessage:
    return OutboxMessage(topic, b"key", value.encode(), (("b", b"1"), ("a", b"\xff\x00"), ("b", b"2")))


@asynccontextmanager
async def database(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url, "khata_payments") as opened_database:
        yield opened_database


class Published:
    """Stands for the topic."""

    def __init__(self) -> None:
        self.messages: list[OutboxMessage] = []

    async def __call__(self, messages: Sequence[OutboxMessage]) -> None:
        self.messages += messages

    @property
    def values(self) -> list[str]:
        return [(message.value or b"").decode() for message in self.messages]


async def _add(database: Database, *values: str) -> None:
    async with database.transaction() as connection:
        await outbox.add(connection, [message(value) for value in values])


async def test_rows_leave_in_order_once_and_as_they_were_written(database_url: str) -> None:
    async with database(database_url) as db:
        await _add(db, *"abcde")
        async with db.transaction() as connection:
            await outbox.add(connection, [OutboxMessage(TOPIC, b"", None), message("x", "other.v1")])
        published = Published()
        assert await outbox.relay_once(db, TOPIC, published, limit=2) == 2
        while await outbox.relay_once(db, TOPIC, published):
            pass
        assert published.messages == [*(message(value) for value in "abcde"), OutboxMessage(TOPIC, b"", None)]


async def test_what_was_rolled_back_never_leaves(database_url: str) -> None:
    async with database(database_url) as db:
        with pytest.raises(ZeroDivisionError):
            async with db.transaction() as connection:
                await outbox.add(connection, [message("never")])
                raise ZeroDivisionError
        assert await outbox.relay_once(db, TOPIC, Published()) == 0


async def test_a_crash_between_ack_and_mark_publishes_again(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        """The process ends here."""

    async def kill(name: str) -> None:
        assert name == "outbox.relay.before_mark"
        raise Killed

    async with database(database_url) as db:
        await _add(db, "a", "b")
        published = Published()
        with monkeypatch.context() as patch:
            patch.setattr(outbox, "failpoint", kill)
            with pytest.raises(Killed):
                await outbox.relay_once(db, TOPIC, published)
        await outbox.relay_once(db, TOPIC, published)
        assert published.values == ["a", "b", "a", "b"]
        assert await outbox.relay_once(db, TOPIC, published) == 0


async def test_a_row_of_an_earlier_open_transaction_is_not_overtaken(database_url: str) -> None:
    async with database(database_url) as db:
        published = Published()
        async with db.transaction() as slow:
            await outbox.add(slow, [message("first")])
            await _add(db, "second")
            assert await outbox.relay_once(db, TOPIC, published) == 0
        await outbox.relay_once(db, TOPIC, published)
        assert published.values == ["first", "second"]


async def test_one_leader_publishes_and_the_other_takes_over_when_its_session_ends(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.kafka.relay.STANDBY_S", 0.05)
    settings = DatabaseSettings(database_url=SecretStr(database_url))
    first, second, stop = Published(), Published(), asyncio.Event()

    def producer(published: Published) -> Producer:
        made = Producer(NOWHERE, "test")
        made.publish = published  # type: ignore[method-assign]
        return made

    async with database(database_url) as db:
        a = asyncio.create_task(relay(settings, db, producer(first), [TOPIC], stop, role="khata_payments"))
        await _add(db, "1")
        await eventually(_values(first), lambda values: values == ["1"])
        b = asyncio.create_task(relay(settings, db, producer(second), [TOPIC], stop, role="khata_payments"))
        await _add(db, "2")
        await eventually(_values(first), lambda values: values == ["1", "2"])
        rival = await direct_connection(settings, "khata_payments", "rival")
        assert not await outbox.leadership(rival, TOPIC)
        await rival.close()
        assert second.values == []
        a.cancel()
        await asyncio.wait({a})
        await _add(db, "3")
        await eventually(_values(second), lambda values: values == ["3"])
        with psycopg.connect(database_url, autocommit=True) as owner:
            owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'khata-relay'"
            )
        await _add(db, "4")
        await eventually(_values(second), lambda values: values == ["3", "4"])
        monkeypatch.setattr("shared.kafka.relay.IDLE_S", 60)
        await _add(db, "5")
        await eventually(_may_leave(db))
        stop.set()
        await asyncio.wait_for(b, 5)
        assert second.values == ["3", "4", "5"]  # drained before it went


async def test_the_leader_forgets_what_was_published_a_week_ago_and_nothing_that_is_pending(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.kafka.relay.PURGE_MOST", 2)
    settings, stop = DatabaseSettings(database_url=SecretStr(database_url)), asyncio.Event()
    producer = Producer(NOWHERE, "test")
    producer.publish = Published()  # type: ignore[method-assign]
    async with database(database_url) as db:
        await _add(db, *"abcdefg")
        async with db.transaction() as connection:
            await outbox.add(connection, [message("pending", "other.v1"), message("old", "other.v1")])
        with psycopg.connect(database_url, autocommit=True) as owner:
            owner.execute(
                "UPDATE messaging.outbox SET published_at = now() - interval '1 day' * "
                "(CASE WHEN id = 1 THEN 6 ELSE 8 END) WHERE convert_from(value, 'UTF8') <> 'pending'"
            )
        running = asyncio.create_task(relay(settings, db, producer, [TOPIC], stop, role="khata_payments"))

        async def left() -> list[str]:
            async with db.connection() as connection:
                rows = await (
                    await connection.execute("SELECT convert_from(value, 'UTF8') FROM messaging.outbox ORDER BY id")
                ).fetchall()
            return [row[0] for row in rows]

        await eventually(left, lambda values: values == ["a", "pending", "old"])  # another topic has its own leader
        stop.set()
        await running


def _may_leave(database: Database):  # type: ignore[no-untyped-def]
    """Whether no open transaction (autovacuum has some, too) is older than the newest row."""

    async def probe() -> bool:
        async with database.connection() as connection:
            row = await (
                await connection.execute(
                    "SELECT max(created_by_xid) < pg_snapshot_xmin(pg_current_snapshot()) FROM messaging.outbox"
                )
            ).fetchone()
        return bool(row and row[0])

    return probe


def _values(published: Published):  # type: ignore[no-untyped-def]
    async def probe() -> list[str]:
        return published.values

    return probe
