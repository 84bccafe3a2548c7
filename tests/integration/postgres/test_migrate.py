"""Migrations: once each, in order, whoever starts them and whenever they die."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from devstack.postgres import create_database, drop_database
from devstack.stack import Stack
from shared.domain.errors import DatabaseAway, Misconfigured
from shared.postgres.migrate import FOLDER, migrate, migrations, require_current
from tests.support.usage import opened


@pytest.fixture
def empty(stack: Stack) -> Iterator[str]:
    """Owner's URL of a database without any table."""
    name = f"khata_empty_{uuid.uuid4().hex[:8]}"
    yield create_database(stack.addresses.database_url, name)
    drop_database(stack.addresses.database_url, name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three small migrations."""
    for number in (1, 2, 3):
        (tmp_path / f"000{number}_step.sql").write_text(f"CREATE TABLE step_{number} (a int); SELECT pg_sleep(0.05);")
    return tmp_path


def tables(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE tablename LIKE 'step%' ORDER BY 1").fetchall()
    return [row[0] for row in rows]


def test_migrations_that_start_together_apply_each_file_once(empty: str) -> None:
    applied: list[list[str]] = []
    threads = [threading.Thread(target=lambda: applied.append(migrate(empty))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(applied) == [[], [], [], [migration.name for migration in migrations()]]
    assert migrate(empty) == []


def test_a_file_that_fails_leaves_nothing_and_the_next_run_goes_on_with_it(empty: str, folder: Path) -> None:
    second = folder / "0002_step.sql"
    good = second.read_text()
    second.write_text("CREATE TABLE step_2 (a int); SELECT 1/0;")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(empty, folder)
    assert tables(empty) == ["step_1"]
    second.write_text(good)
    assert migrate(empty, folder) == ["0002_step.sql", "0003_step.sql"]


def test_a_migration_killed_in_a_file_goes_on_with_that_file(empty: str, folder: Path) -> None:
    (folder / "0002_step.sql").write_text(
        "CREATE TABLE step_2 (a int); SELECT pg_terminate_backend(pg_backend_pid()) WHERE current_setting("
        "'application_name') = 'doomed';"
    )
    with pytest.raises(DatabaseAway):
        migrate(empty + ("&" if "?" in empty else "?") + "application_name=doomed", folder)
    assert tables(empty) == ["step_1"]
    assert migrate(empty, folder) == ["0002_step.sql", "0003_step.sql"]


def test_a_file_that_changed_after_it_was_applied_is_refused(empty: str, folder: Path) -> None:
    migrate(empty, folder)
    (folder / "0002_step.sql").write_text("SELECT 1")
    (folder / "0004_step.sql").write_text("CREATE TABLE step_4 (a int)")
    with pytest.raises(Misconfigured, match="0002_step.sql was changed after it was applied"):
        migrate(empty, folder)
    assert "step_4" not in tables(empty)


def test_a_database_that_is_newer_than_the_code_is_refused(empty: str, folder: Path) -> None:
    migrate(empty, folder)
    (folder / "0003_step.sql").unlink()
    with pytest.raises(Misconfigured, match=r"0003.*run a newer version"):
        migrate(empty, folder)


@pytest.mark.parametrize(
    ("name", "why"),
    [("0005_gap.sql", "without gap"), ("0003_again.sql", "without gap"), ("4_short.sql", "not named NNNN_words.sql")],
)
def test_a_gap_a_double_or_a_bad_name_is_refused(folder: Path, name: str, why: str) -> None:
    (folder / name).write_text("SELECT 1")
    with pytest.raises(Misconfigured, match=why):
        migrations(folder)


def test_a_database_that_is_not_there_is_told() -> None:
    with pytest.raises(DatabaseAway, match="Postgres"):
        migrate("postgresql://nobody@127.0.0.1:1/nothing")


async def test_a_service_refuses_a_schema_that_is_not_its_own(database_url: str) -> None:
    async with opened(database_url, "khata_reader") as database:
        async with database.connection() as connection:
            await require_current(connection)
        last = migrations()[-1]
        with psycopg.connect(database_url) as owner:
            owner.execute("DELETE FROM public.khata_migration WHERE number = %s", (last.number,))
        async with database.connection() as connection:
            with pytest.raises(Misconfigured, match=rf"first {last.name}.*run `khata db migrate`"):
                await require_current(connection)


def test_the_product_numbers_its_files_without_gap() -> None:
    assert [migration.number for migration in migrations()] == list(range(1, len(list(FOLDER.glob("*.sql"))) + 1))
