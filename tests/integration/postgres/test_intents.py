"""Intents: one worker at a time, never forgotten, never done twice by a worker that came late."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg

from shared.postgres import intents
from shared.postgres.intents import Intent
from shared.postgres.pool import Database
from tests.support.usage import opened


async def _intend(database: Database, key: str = "inv_1") -> bool:
    async with database.transaction() as connection:
        return await intents.intend(connection, "link", key, "acme", {"amount": 5})


async def _claim(database: Database) -> Intent | None:
    async with database.transaction() as connection:
        return await intents.claim(connection, "link")


def _owner(url: str, statement: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


async def test_a_second_intend_of_the_same_thing_is_refused(database_url: str) -> None:
    async with opened(database_url, "khata_payments") as database:
        assert await _intend(database)
        assert not await _intend(database)
        assert sorted(await asyncio.gather(*(_intend(database, "inv_2") for _ in range(5)))) == [False] * 4 + [True]


async def test_an_intent_is_leased_to_one_worker_until_the_lease_runs_out(database_url: str) -> None:
    async with opened(database_url, "khata_payments") as database:
        await _intend(database)
        claims = await asyncio.gather(*(_claim(database) for _ in range(5)))
        [first] = [claim for claim in claims if claim]
        assert (first.key, first.organisation_id, first.payload, first.attempt) == ("inv_1", "acme", {"amount": 5}, 1)
        _owner(database_url, "UPDATE messaging.intent SET claimed_until = now() - interval '1 s'")
        second = await _claim(database)
        assert second is not None
        assert second.attempt == 2


async def test_a_postponed_one_waits_and_a_resolved_one_is_never_claimed_again(database_url: str) -> None:
    async with opened(database_url, "khata_payments") as database:
        await _intend(database)
        first = await _claim(database)
        assert first is not None
        async with database.transaction() as connection:
            await intents.postpone(connection, first, "away")
        assert await _claim(database) is None
        _owner(database_url, "UPDATE messaging.intent SET due_at = now()")
        again = await _claim(database)
        assert again is not None
        assert again.attempt == 2
        async with database.transaction() as connection:
            await intents.resolve(connection, again, {"id": "plink_1"})
        _owner(database_url, "UPDATE messaging.intent SET due_at = now(), claimed_until = now() - interval '1 h'")
        assert await _claim(database) is None
        assert _owner(database_url, "SELECT state, result FROM messaging.intent") == [("done", {"id": "plink_1"})]


async def test_a_worker_that_lost_its_lease_undoes_nothing_of_its_successor(database_url: str) -> None:
    async with opened(database_url, "khata_payments") as database:
        await _intend(database)
        late = await _claim(database)
        _owner(database_url, "UPDATE messaging.intent SET claimed_until = now() - interval '1 s'")
        successor = await _claim(database)
        assert late is not None
        assert successor is not None
        async with database.transaction() as connection:
            await intents.postpone(connection, late, "timeout")
            await intents.fail(connection, late, "timeout")
        assert _owner(database_url, "SELECT state FROM messaging.intent") == [("claimed",)]
        async with database.transaction() as connection:
            await intents.resolve(connection, successor, {"id": "plink_1"})
            await intents.postpone(connection, late, "timeout")
            await intents.fail(connection, successor, "too late")
        assert _owner(database_url, "SELECT state FROM messaging.intent") == [("done",)]


async def test_leases_of_a_worker_known_to_be_gone_are_given_up_at_once(database_url: str) -> None:
    async with opened(database_url, "khata_payments") as database:
        await _intend(database)
        await _claim(database)
        async with database.transaction() as connection:
            assert await intents.release_claims(connection, "link") == 1
        again = await _claim(database)
        assert again is not None
        assert again.attempt == 2  # it must look first whether the first attempt acted
