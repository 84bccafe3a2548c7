"""Whatever happens to generations and their filters, a repetition is told as one and everything counts once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import hypothesis
import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from services.aggregator.generations import files, keeper, store
from services.aggregator.generations.bloom import Bloom
from services.aggregator.generations.filters import Filters
from services.aggregator.generations.keeper import Keeper, Limits
from shared.domain.errors import DatabaseAway
from shared.domain.identity import Fingerprint
from shared.postgres import epoch
from shared.postgres.leadership import candidate
from shared.postgres.pool import direct_connection
from shared.runtime.settings import DatabaseSettings
from tests.support.generations import NEVER, grow_old, keep, living, roll, told_and_true
from tests.support.usage import Counting, counting, stamped
from tests.support.waiting import eventually


@pytest.fixture
async def count(database_url: str, tmp_path: Path) -> AsyncIterator[Counting]:
    async with counting(database_url) as made:
        made.aggregator.filters = Filters(tmp_path / "filters")
        yield made


@pytest.fixture
def settings(database_url: str) -> DatabaseSettings:
    return DatabaseSettings.model_validate({"database_url": database_url})


async def keep_until_filtered(settings: DatabaseSettings, count: Counting) -> None:
    """Count and build, one generation a turn each."""
    while not all(count.aggregator.filters.of(one) for one in (await living(count.database))[:-1]):
        await keep(settings, count.database, count.aggregator.filters)


def _cut(path: Path) -> bytes:
    return path.read_bytes()[:-8]


def _flipped(path: Path) -> bytes:
    return path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])


def _empty_of_another(path: Path) -> bytes:
    """Whole and right for another set of keys: it would let nothing pass."""
    other = store.Generation(1, True, 2, Fingerprint(1, 1))
    return files.write(path.parent, other, Bloom.over(2)).read_bytes()


@pytest.mark.parametrize("filtered", ["with filters", "not counted yet", _cut, _flipped, _empty_of_another])
async def test_a_repetition_is_found_in_every_generation_and_a_contradiction_is_one(
    count: Counting, settings: DatabaseSettings, filtered: str | Callable[[Path], bytes]
) -> None:
    await count.apply(stamped("a", 1), stamped("b", 2))
    await roll(count.database)
    await count.apply(stamped("c", 3), stamped("a", 1))
    await roll(count.database)
    if filtered != "not counted yet":
        await keep_until_filtered(settings, count)
    folder = count.aggregator.filters.folder
    if callable(filtered) and folder is not None:
        count.aggregator.filters.look([])  # let go
        for path in list(folder.glob("*.bloom")):
            content = filtered(path)
            path.unlink()
            path.write_bytes(content)
            path.chmod(0o444)
        assert len(count.aggregator.filters.look(await living(count.database))) == 2
    await count.apply(stamped("a", 1), stamped("b", 7), stamped("c", 3), stamped("d", 4), stamped("c", 8))
    assert await count.dispositions() == "cc" + "cd" + "dxdcx"
    assert (await count.windows())["tokens"] == (4, 10)
    assert await count.rows("SELECT count(*), count(DISTINCT key) FROM usage.identity") == [(4, 4)]


async def test_a_closed_generation_is_told_by_exactly_its_keys(
    count: Counting, settings: DatabaseSettings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CHUNK_PAGES", 2)  # more than one chunk, the last not full
    for first in (0, 700):
        await count.apply(*(stamped(str(number)) for number in range(first, first + 700)))
        await count.apply(stamped("0"), stamped("x", subject="bob"), stamped("x", subject="bob"))
        await roll(count.database)
    await keep_until_filtered(settings, count)
    told = list(told_and_true(database_url))
    assert [(id, said[0]) for id, said, _ in told] == [(1, 701), (2, 700)]
    assert all(said == true for _, said, true in told)


async def test_a_closed_generation_never_changes_whoever_tries(
    count: Counting, settings: DatabaseSettings, database_url: str
) -> None:
    await count.apply(stamped("a"))
    await roll(count.database)
    await keep(settings, count.database, count.aggregator.filters)
    statements = (
        "INSERT INTO usage.identity VALUES (1, gen_random_uuid(), 1, 0, 9)",
        "INSERT INTO usage.identity_1 VALUES (1, gen_random_uuid(), 1, 0, 9)",
        "UPDATE usage.identity SET fingerprint = 7 WHERE generation = 1",
        "DELETE FROM usage.identity",
        "TRUNCATE usage.identity_1",
        "TRUNCATE usage.identity",
    )
    with psycopg.connect(database_url, autocommit=True) as owner:
        for statement in statements:
            with pytest.raises(psycopg.Error, match="identity_1 is a closed generation"):
                owner.execute(statement.encode())
    async with count.database.connection() as connection:
        for statement in ("SELECT usage.roll_generation(2)", "SELECT usage.detach_generation('1 day')"):
            with pytest.raises(psycopg.Error, match="not without the epoch lock"):
                await connection.execute(statement.encode())
        await epoch.enter_shared(connection)
        with pytest.raises(psycopg.Error, match="not without the epoch lock"):
            await connection.execute("SELECT usage.count_generation(1, 0, 0, 0)")
        with pytest.raises(psycopg.Error, match="generation 2 is not closed"):
            await connection.execute("SELECT usage.freeze_generation(2)")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with count.database.transaction() as connection:
            await connection.execute("UPDATE usage.generation SET identity_count = 0")


def test_only_the_aggregator_moves_generations_on(database_url: str) -> None:
    with psycopg.connect(database_url) as owner:
        rows = owner.execute(
            """
            SELECT proname, rolname FROM pg_proc, pg_roles
            WHERE pronamespace = 'usage'::regnamespace AND proname LIKE '%generation%' AND rolname LIKE 'khata%'
              AND rolname <> pg_get_userbyid(proowner)
              AND has_function_privilege(rolname, pg_proc.oid, 'EXECUTE')
            """
        ).fetchall()
    own = ("roll", "freeze", "count", "detach", "drop")
    wanted = {(f"{name}_generation", "khata_aggregator") for name in own}
    assert set(rows) == wanted | {("generation_size", "khata_aggregator"), ("generation_size", "khata_reader")}


async def test_what_was_told_of_a_generation_is_never_told_again(count: Counting, settings: DatabaseSettings) -> None:
    await count.apply(stamped("a"))
    await roll(count.database)
    await keep(settings, count.database, count.aggregator.filters)
    told = await living(count.database)
    async with count.database.transaction() as connection:
        await store.store_count(connection, 1, 9, Fingerprint(9, 9))
    assert await living(count.database) == told
    assert told[0].keys == 1


async def test_a_roll_waits_for_the_batch_in_flight_and_the_next_batch_finds_its_keys(
    count: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def hold(name: str) -> None:
        if name == "aggregator.batch.before_commit":
            entered.set()
            await go_on.wait()

    monkeypatch.setattr("services.aggregator.apply.failpoint", hold)
    flying = asyncio.create_task(count.apply(stamped("1", 5)))
    await entered.wait()
    rolling = asyncio.create_task(roll(count.database))
    done, _ = await asyncio.wait({rolling}, timeout=0.2)
    assert not done
    go_on.set()
    await flying
    assert await rolling == 2
    await count.apply(stamped("1", 5), stamped("2", 7))
    assert await count.dispositions() == "cdc"


async def test_two_processes_race_for_the_same_keys_across_rolls_and_each_counts_once(
    count: Counting, database_url: str, settings: DatabaseSettings
) -> None:
    """Each key comes on two partitions, nearly at once, and again a few batches later."""
    batches, size = 40, 25
    filters, over = count.aggregator.filters, asyncio.Event()

    async def apply(partition: int) -> None:
        async with counting(database_url) as other:
            other.aggregator.filters = filters
            for number in range(batches):
                ids = [*range(number * size, (number + 1) * size), *range(max(0, number - 7) * size, number * size, 5)]
                await _retried(other, [stamped(str(id)) for id in ids], partition)

    async def roll_and_build() -> int:
        rolls = 0
        while not over.is_set():
            standing = (await living(count.database))[-1].id
            rolls += await keeper.roll(count.database, standing) is not None
            await keep(settings, count.database, filters)
        return rolls

    rolling = asyncio.create_task(roll_and_build())
    await asyncio.gather(apply(0), apply(1))
    over.set()
    assert await rolling >= 3
    assert await count.windows() == {"requests": (batches * size, batches * size), "tokens": (1000, 1000)}
    assert await count.rows("SELECT count(*), count(DISTINCT key) FROM usage.identity") == [(1000, 1000)]
    letters = await count.dispositions()
    assert (letters.count("c"), set(letters)) == (1000, {"c", "d"})


async def _retried(count: Counting, values: list[bytes], partition: int) -> None:
    """As the consumer loop does."""
    for _ in range(10):
        try:
            await count.apply(*values, partition=partition)
        except DatabaseAway:
            continue
        return
    raise AssertionError("ten times")


class Step(NamedTuple):
    """What happens next: these events, or something to the generations."""

    events: tuple[tuple[int, int], ...] = ()  # (id, tokens)
    roll: bool = False
    keep: bool = False
    let_go: bool = False


def take(first: dict[int, int], id: int, tokens: int) -> str:
    if id not in first:
        first[id] = tokens
        return "c"
    return "d" if first[id] == tokens else "x"


step = st.builds(
    Step, events=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 2)), min_size=1, max_size=6).map(tuple)
) | st.sampled_from([Step(roll=True), Step(roll=True), Step(keep=True), Step(let_go=True)])
examples = itertools.count()


@hypothesis.settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(step, max_size=12))
async def test_any_order_of_events_rolls_and_filters_gives_the_dispositions_of_a_dictionary(
    count: Counting, settings: DatabaseSettings, steps: list[Step]
) -> None:
    example, expected = next(examples), ""
    first: dict[int, int] = {}
    before = len(await count.dispositions())
    for one in steps:
        if one.events:
            await count.apply(*(stamped(str(id), tokens, source=str(example)) for id, tokens in one.events))
            expected += "".join(take(first, id, tokens) for id, tokens in one.events)
        if one.roll:
            await keeper.roll(count.database, (await living(count.database))[-1].id)
        if one.keep:
            await keep(settings, count.database, count.aggregator.filters)
        if one.let_go:
            count.aggregator.filters.look([])
    assert (await count.dispositions())[before:] == expected


async def test_a_reader_of_all_identities_delays_a_drop_and_no_batch_for_long(
    count: Counting, settings: DatabaseSettings, database_url: str
) -> None:
    await count.apply(stamped("old"))
    await roll(count.database)
    await keep(settings, count.database, count.aggregator.filters)
    grow_old(database_url, 1)
    async with count.database.transaction() as connection:
        await connection.execute("SELECT count(*) FROM usage.identity")
        with pytest.raises(DatabaseAway, match="lock timeout"):
            async with asyncio.timeout(2):
                await keep(settings, count.database, count.aggregator.filters)
        await count.apply(stamped("old"))
    await keep(settings, count.database, count.aggregator.filters)
    assert [one.id for one in await living(count.database)] == [2]
    assert await count.dispositions() == "cd"


async def test_filters_that_come_and_go_under_load_change_nothing(count: Counting, settings: DatabaseSettings) -> None:
    for first in range(0, 40, 10):
        await count.apply(*(stamped(str(number)) for number in range(first, first + 10)))
        await roll(count.database)
    await keep_until_filtered(settings, count)
    folder = count.aggregator.filters.folder
    assert folder is not None
    for turn in range(8):
        if turn % 2:
            next(iter(sorted(folder.iterdir()))).unlink()
            count.aggregator.filters.look([])
        elif turn % 4:
            await keep_until_filtered(settings, count)
        else:
            count.aggregator.filters.look(await living(count.database))
        await count.apply(*(stamped(str(number)) for number in range(0, 40, 3)), stamped(f"new-{turn}"))
    assert await count.dispositions() == "c" * 40 + ("d" * 14 + "c") * 8


async def test_a_generation_is_rolled_by_size_or_age_and_never_while_it_is_empty(
    count: Counting, settings: DatabaseSettings
) -> None:
    filters = count.aggregator.filters
    by_age = Limits(keys=10**9, age=timedelta(0), keep=NEVER.keep)
    by_size = Limits(keys=300, age=NEVER.age, keep=NEVER.keep)
    await keep(settings, count.database, filters, by_age)
    await count.apply(*(stamped(str(number)) for number in range(100)))
    await keep(settings, count.database, filters, by_size)
    assert [one.id for one in await living(count.database)] == [1]
    await count.apply(*(stamped(str(number)) for number in range(100, 300)))
    await keep(settings, count.database, filters, by_size)
    assert [(one.id, one.keys) for one in await living(count.database)] == [(1, 300), (2, None)]
    await count.apply(stamped("300"))
    await keep(settings, count.database, filters, by_age)
    await keep(settings, count.database, filters, by_age)
    assert [one.id for one in await living(count.database)] == [1, 2, 3]


async def test_one_process_of_many_does_the_work_and_all_use_the_filter(
    count: Counting, settings: DatabaseSettings
) -> None:
    await count.apply(stamped("a"))
    await roll(count.database)
    leads, stands_by = count.aggregator.filters, Filters(count.aggregator.filters.folder)
    by_age = Limits(keys=1, age=NEVER.age, keep=NEVER.keep)
    async with (
        candidate(settings, keeper.ROLE, "first") as first,
        candidate(settings, keeper.ROLE, "second") as second,
    ):
        await Keeper(settings, count.database, leads, NEVER).turn(first, asyncio.Event())
        await count.apply(stamped("b"))
        await Keeper(settings, count.database, stands_by, by_age).turn(second, asyncio.Event())
        assert second.held == []
    closed, opened = await living(count.database)
    assert (closed.keys, opened.id) == (1, 2)
    assert leads.of(closed) is not None
    assert stands_by.of(closed) is not None


async def test_an_old_generation_is_dropped_as_a_whole_and_the_others_stand(
    count: Counting, settings: DatabaseSettings, database_url: str
) -> None:
    for name in ("old", "young"):
        await count.apply(stamped(name))
        await roll(count.database)
    await keep_until_filtered(settings, count)
    folder = count.aggregator.filters.folder
    assert folder is not None
    assert len(list(folder.iterdir())) == 2
    grow_old(database_url, 1)
    await keep(settings, count.database, count.aggregator.filters)
    assert [one.id for one in await living(count.database)] == [2, 3]
    assert len(list(folder.iterdir())) == 1
    assert await count.rows("SELECT to_regclass('usage.identity_1'), to_regclass('usage.identity_2')::text") == [
        (None, "usage.identity_2")
    ]
    # Not refused here: ingest has taken nothing of that age for a month when its generation is dropped.
    await count.apply(stamped("young"), stamped("old"))
    assert await count.dispositions() == "cc" + "dc"
    await keep(settings, count.database, count.aggregator.filters)
    assert len(list(folder.iterdir())) == 1


async def test_a_folder_that_cannot_be_written_costs_the_filter_and_nothing_else(
    count: Counting, settings: DatabaseSettings, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    count.aggregator.filters = Filters(tmp_path / "file" / "filters")
    await count.apply(stamped("a"))
    await roll(count.database)
    await keep(settings, count.database, count.aggregator.filters)
    await count.apply(stamped("a"))
    assert await count.dispositions() == "cd"
    assert (await living(count.database))[0].keys == 1


async def test_a_table_that_is_not_what_was_counted_gets_no_filter(
    count: Counting, settings: DatabaseSettings, database_url: str
) -> None:
    await count.apply(stamped("a"), stamped("b"))
    await roll(count.database)
    await keep(settings, count.database, Filters())
    with psycopg.connect(database_url) as owner:
        owner.execute("ALTER TABLE usage.identity_1 DISABLE TRIGGER closed")
        owner.execute("UPDATE usage.identity_1 SET key = gen_random_uuid() WHERE log_offset = 0")
    await keep(settings, count.database, count.aggregator.filters)
    folder = count.aggregator.filters.folder
    assert folder is not None
    assert list(folder.iterdir()) == []


async def test_a_keeper_ends_a_frozen_process_and_goes_on_when_the_lock_is_free(
    count: Counting, settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("EXCLUSIVE_LOCK_TIMEOUT_MS", 50), ("STALE_HOLDER_S", 0.2)):
        monkeypatch.setattr(epoch, name, value)
    for name in ("LOOK_EVERY_S", "AGAIN_S"):
        monkeypatch.setattr(keeper, name, 0.05)
    await count.apply(stamped("a"))
    stop = asyncio.Event()
    limits = Limits(keys=1, age=NEVER.age, keep=NEVER.keep)
    frozen = await direct_connection(settings, keeper.ROLE, "frozen")
    await frozen.execute("BEGIN")
    await epoch.enter_shared(frozen)
    busy = asyncio.create_task(frozen.execute("SELECT pg_sleep(60)"))
    keeping = asyncio.create_task(Keeper(settings, count.database, count.aggregator.filters, limits).run(stop))
    with pytest.raises(psycopg.OperationalError):
        await busy
    await eventually(lambda: living(count.database), lambda found: len(found) == 2)
    stop.set()
    await keeping
