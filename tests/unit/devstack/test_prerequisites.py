"""What is missing is named at once, each with the command that installs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from devstack import prerequisites
from devstack.prerequisites import Machine, find
from shared.domain.errors import Misconfigured


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with nothing on it, run by root."""
    monkeypatch.setattr(prerequisites, "ACCOUNT", "no-such-account")
    return Machine(environ={"PATH": str(tmp_path)}, java_globs=(), postgres_globs=(), is_root=True)


def program(path: Path, output: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{output}'\n")
    path.chmod(0o755)


def postgres(folder: Path, major: int) -> Path:
    program(folder / "postgres", f"postgres (PostgreSQL) {major}.1")
    program(folder / "initdb", "initdb")
    return folder


def test_everything_missing_is_named_in_one_error(bare: Machine, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as caught:
        find(tmp_path / "cache", kafka=True, postgres=True, machine=bare)
    text = str(caught.value)
    for command in (
        "apt-get install openjdk-17-jre-headless",
        "brew install openjdk@17",
        "apt-get install maven",
        "brew install maven",
        "apt-get install postgresql",
        "brew install postgresql@18",
        "useradd --system",
    ):
        assert command in text


def test_only_what_is_needed_must_be_there(bare: Machine, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as caught:
        find(tmp_path, kafka=False, postgres=True, machine=replace(bare, is_root=False))
    assert "PostgreSQL" in str(caught.value)
    assert "Java" not in str(caught.value)
    assert "useradd" not in str(caught.value)
    assert find(tmp_path, kafka=False, postgres=False, machine=bare) == (None, None)


@pytest.mark.parametrize(
    ("version", "enough"),
    [
        ('openjdk version "17.0.15" 2025-04-15', True),
        ('java version "25" 2025-09-16 LTS', True),
        ('java version "1.8.0_392"', False),
        ("No Java runtime present, requesting install.", False),
    ],
)
def test_java_must_be_17_or_newer(bare: Machine, tmp_path: Path, version: str, enough: bool) -> None:
    program(tmp_path / "java", version)
    program(tmp_path / "mvn", "maven")
    if enough:
        kafka, _ = find(tmp_path / "cache", kafka=True, postgres=False, machine=bare)
        assert kafka is not None
        assert (kafka.java, kafka.maven) == (str(tmp_path / "java"), str(tmp_path / "mvn"))
    else:
        with pytest.raises(Misconfigured, match="Java 17"):
            find(tmp_path / "cache", kafka=True, postgres=False, machine=bare)


def test_jars_in_the_cache_need_no_maven(bare: Machine, tmp_path: Path) -> None:
    program(tmp_path / "java", 'openjdk version "21"')
    with pytest.raises(Misconfigured, match="Maven"):
        find(tmp_path / "cache", kafka=True, postgres=False, machine=bare)
    program(tmp_path / "mvn", "maven")
    kafka, _ = find(tmp_path / "cache", kafka=True, postgres=False, machine=bare)
    assert kafka is not None
    kafka.libs.mkdir(parents=True)
    (tmp_path / "mvn").unlink()
    again, _ = find(tmp_path / "cache", kafka=True, postgres=False, machine=bare)
    assert again is not None
    assert again.libs == kafka.libs


def test_an_unpacked_kafka_is_used_when_it_is_one(bare: Machine, tmp_path: Path) -> None:
    program(tmp_path / "java", 'openjdk version "21"')
    unpacked = tmp_path / "kafka"
    machine = replace(bare, environ={**bare.environ, "KAFKA_HOME": str(unpacked)})
    with pytest.raises(Misconfigured, match="KAFKA_HOME"):
        find(tmp_path, kafka=True, postgres=False, machine=machine)
    (unpacked / "libs").mkdir(parents=True)
    (unpacked / "libs" / "kafka_2.13-4.1.0.jar").touch()
    kafka, _ = find(tmp_path, kafka=True, postgres=False, machine=machine)
    assert kafka is not None
    assert kafka.libs == unpacked / "libs"


def test_the_newest_postgres_is_taken_unless_data_of_an_older_one_is_there(bare: Machine, tmp_path: Path) -> None:
    for major in (9, 15, 17, 19):
        postgres(tmp_path / "pg" / str(major) / "bin", major)
    machine = replace(bare, is_root=False, postgres_globs=(str(tmp_path / "pg" / "*" / "bin"),))
    assert majors(machine, tmp_path, None) == 17
    assert majors(machine, tmp_path, 15) == 15
    with pytest.raises(Misconfigured, match=r"postgresql-16.*Debian"):
        majors(machine, tmp_path, 16)


def test_a_named_postgres_comes_first(bare: Machine, tmp_path: Path) -> None:
    newest = postgres(tmp_path / "pg" / "18" / "bin", 18)
    named = postgres(tmp_path / "named", 16)
    environ = {**bare.environ, "PG_BIN": str(named)}
    machine = replace(bare, is_root=False, postgres_globs=(str(newest),), environ=environ)
    assert majors(machine, tmp_path, None) == 16


def majors(machine: Machine, cache: Path, data_major: int | None) -> int:
    _, found = find(cache, kafka=False, postgres=True, data_major=data_major, machine=machine)
    assert found is not None
    return found.major
