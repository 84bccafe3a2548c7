"""A stack of real servers: it comes up, keeps its data, is shared, and goes away."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from devstack.postgres import OWNER, create_database, drop_database
from devstack.prerequisites import Machine
from devstack.processes import ChildEnded
from devstack.stack import Stack, reset
from shared.domain.errors import Fatal, Misconfigured, Usage

from .conftest import NO_KAFKA, Parent, assert_all_gone, wait_until


def put(url: str, value: int) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (value int)")
        connection.execute("INSERT INTO kept VALUES (%s)", (value,))


def kept(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT value FROM kept ORDER BY value")]


@asynccontextmanager
async def admin(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def make_topic(bootstrap: str, name: str) -> None:
    async with admin(bootstrap) as client:
        answer = await client.create_topics([NewTopic(name, num_partitions=2, replication_factor=1)])
        assert answer.topic_errors[0][1] == 0


async def topics(bootstrap: str) -> list[str]:
    async with admin(bootstrap) as client:
        return sorted(await client.list_topics())


async def test_a_second_start_finds_the_same_data_at_the_same_addresses(home: Path) -> None:
    said: list[str] = []
    with Stack.start(home, report=said.append) as first:
        put(first.addresses.database_url, 7)
        await make_topic(first.addresses.kafka_bootstrap, "usage")
        for name in ("kafka", "postgres"):
            assert any(str(first.logs[name]) in line for line in said)

    with Stack.start(home, report=said.append) as second:
        assert second.addresses == first.addresses
        assert kept(second.addresses.database_url) == [7]
        assert await topics(second.addresses.kafka_bootstrap) == ["usage"]


def test_the_owner_may_make_roles_and_databases_and_nothing_more(home: Path) -> None:
    with Stack.start(home, kafka_bootstrap=NO_KAFKA, report=print) as stack:
        owner_url = stack.addresses.database_url
        with psycopg.connect(owner_url) as connection:
            row = connection.execute(
                "SELECT rolsuper, rolcreaterole, rolcreatedb, current_setting('fsync'), current_setting('timezone'),"
                " (SELECT datcollate || '/' || pg_encoding_to_char(encoding) FROM pg_database WHERE datname='khata')"
                " FROM pg_roles WHERE rolname = %s",
                (OWNER,),
            ).fetchone()
        assert row is not None
        assert row[:5] == (False, True, True, "on", "UTC")
        assert row[5] in ("C.UTF-8/UTF8", "C/UTF8")

        template_url = create_database(owner_url, "template_of_tests")
        put(template_url, 1)
        copy_url = create_database(owner_url, "copy", template="template_of_tests")
        assert kept(copy_url) == [1]
        session = psycopg.connect(copy_url)
        drop_database(owner_url, "copy")
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
        session.close()
        drop_database(owner_url, "copy")  # already gone

        secret = psycopg.conninfo.conninfo_to_dict(owner_url)["password"]
        assert isinstance(secret, str)
        assert secret not in stack.logs["postgres"].read_text()
        assert (home / "stack.json").stat().st_mode & 0o077 == 0


def test_a_killed_parent_leaves_no_process_and_the_next_start_has_the_data(
    home: Path, parents: Callable[..., Parent]
) -> None:
    parent = parents("stack", home)
    told = parent.ready()
    put(told["database"], 1)
    family = parent.family()
    parent.process.kill()
    assert_all_gone(family)

    # Harder: the servers get no chance to write anything either.
    parent = parents("stack", home)
    told = parent.ready()
    put(told["database"], 2)
    family = parent.family()
    for pid in (parent.process.pid, *told["pids"].values()):
        os.kill(pid, signal.SIGKILL)
    # `assert_all_gone` is not called: the start itself must cope with what is still going away.
    with Stack.start(home, report=print) as stack:
        assert kept(stack.addresses.database_url) == [1, 2]
        assert stack.addresses.kafka_bootstrap == told["kafka"]
    assert_all_gone(family)


def test_a_pid_file_whose_pid_now_means_another_process_does_not_prevent_a_start(home: Path) -> None:
    with Stack.start(home, kafka_bootstrap=NO_KAFKA, report=print) as stack:
        put(stack.addresses.database_url, 1)
        pid_file = home / "postgres" / "data" / "postmaster.pid"
        content = pid_file.read_text().splitlines()
        owner = pid_file.stat()
    stranger = subprocess.Popen(["sleep", "600"], user=owner.st_uid, group=owner.st_gid)
    try:
        pid_file.write_text("\n".join([str(stranger.pid), *content[1:]]) + "\n")
        os.chown(pid_file, owner.st_uid, owner.st_gid)
        with Stack.start(home, kafka_bootstrap=NO_KAFKA, report=print) as again:
            assert kept(again.addresses.database_url) == [1]
    finally:
        stranger.kill()
        stranger.wait()


def test_ctrl_c_stops_the_servers_in_order(home: Path, parents: Callable[..., Parent]) -> None:
    parent = parents("stack", home)
    parent.ready()
    family = parent.family()
    # The terminal sends Ctrl-C to its foreground group: no child may be in ours.
    assert {process.pid for process in family if os.getpgid(process.pid) == os.getpgid(parent.process.pid)} == set()
    parent.process.send_signal(signal.SIGINT)
    parent.process.wait(30)
    assert_all_gone(family)
    assert "database system is shut down" in (home / "logs" / "postgres.log").read_text()
    assert not (home / "stack.json").exists()


def test_ctrl_c_while_the_servers_start_leaves_nothing(home: Path, parents: Callable[..., Parent]) -> None:
    parent = parents("stack", home)
    wait_until(lambda: (home / "postgres" / "data" / "postmaster.pid").exists(), "the server begins to start")
    family = parent.family()
    parent.process.send_signal(signal.SIGINT)
    parent.process.wait(30)
    assert_all_gone(family)


def test_two_starts_at_once_share_one_stack(home: Path, parents: Callable[..., Parent]) -> None:
    first, second = parents("stack", home), parents("stack", home)
    told = [first.ready(), second.ready()]
    owner, guest = (first, second) if told[0]["pids"] else (second, first)
    assert {each["owner"] for each in told} == {owner.process.pid}
    assert told[0]["database"] == told[1]["database"]
    assert told[0]["kafka"] == told[1]["kafka"]

    with pytest.raises(Usage, match=str(owner.process.pid)):
        reset(home)

    guest.finish()
    put(told[0]["database"], 1)  # the owner's servers are still there
    owner.finish()
    reset(home)
    assert [each.name for each in home.iterdir()] == ["stack.lock"]


def test_a_home_that_the_databases_account_cannot_enter_keeps_its_data_elsewhere(closed_home: Path) -> None:
    said: list[str] = []
    with Stack.start(closed_home, kafka_bootstrap=NO_KAFKA, report=said.append) as stack:
        put(stack.addresses.database_url, 3)
    elsewhere = Path((closed_home / "postgres-is-in").read_text().strip())
    assert any("cannot enter" in line and str(elsewhere) in line for line in said)

    with Stack.start(closed_home, kafka_bootstrap=NO_KAFKA, report=said.append) as stack:
        assert kept(stack.addresses.database_url) == [3]
    reset(closed_home)
    assert not elsewhere.exists()


def test_a_server_that_ends_at_its_start_shows_its_last_lines(home: Path) -> None:
    machine = Machine(environ={**os.environ, "KAFKA_JVM_PERFORMANCE_OPTS": "-XX:+NoSuchOption"})
    with pytest.raises(ChildEnded) as caught:
        Stack.start(home, database_url="postgresql://given", machine=machine, report=print)
    assert "NoSuchOption" in str(caught.value)
    assert str(home / "logs" / "kafka.log") in str(caught.value)


def test_a_lost_server_is_noticed_and_not_shared(home: Path) -> None:
    with Stack.start(home, kafka_bootstrap=NO_KAFKA, report=print) as stack:
        stack.check()
        pid = stack.pids()["postgres"]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: ended(stack), "the server is gone")
        with pytest.raises(ChildEnded, match="killed by SIGKILL"):
            stack.check()
        with pytest.raises(Fatal, match="its postgres has ended"):
            Stack.start(home, kafka_bootstrap=NO_KAFKA, report=print)


def ended(stack: Stack) -> bool:
    try:
        stack.check()
    except ChildEnded:
        return True
    return False


def test_jars_that_cannot_be_fetched_say_what_to_do(home: Path, tmp_path: Path) -> None:
    (tmp_path / "mvn").write_text("#!/bin/sh\necho no route to the repository\nexit 1\n")
    (tmp_path / "mvn").chmod(0o755)
    machine = Machine(environ={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    with pytest.raises(Misconfigured, match="KAFKA_HOME") as caught:
        Stack.start(home, database_url="postgresql://given", cache=tmp_path / "jars", machine=machine, report=print)
    assert "no route to the repository" in str(caught.value)
    assert list((tmp_path / "jars").iterdir()) == []


def test_addresses_that_are_given_start_nothing(home: Path) -> None:
    with Stack.start(home, kafka_bootstrap="broker:9092", database_url="postgresql://server/khata") as stack:
        assert (stack.addresses.kafka_bootstrap, stack.pids(), stack.owner_pid) == ("broker:9092", {}, None)
    assert not home.exists()


def test_reset_does_not_touch_a_folder_that_is_not_a_home(home: Path) -> None:
    home.mkdir()
    (home / "letter.txt").write_text("dear")
    with pytest.raises(Usage, match="not made by Khata"):
        reset(home)
    (home / "letter.txt").unlink()
