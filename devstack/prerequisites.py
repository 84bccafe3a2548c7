"""The programs a stack needs: find them all, or name all that are missing with the commands that install them."""

from __future__ import annotations

import glob
import hashlib
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.domain.errors import Misconfigured

JAVA_OLDEST = 17  # Kafka 4 brokers need it (KIP-1013)
POSTGRES_MAJORS = range(15, 19)
POM = Path(__file__).with_name("pom.xml")
ACCOUNT = "postgres"

JAVA_MISSING = (
    "Java 17 or newer: `sudo apt-get install openjdk-17-jre-headless` (Debian, Ubuntu), "
    "`brew install openjdk@17` (macOS), or set JAVA_HOME"
)
MAVEN_MISSING = (
    "Maven, to fetch Apache Kafka once: `sudo apt-get install maven` (Debian, Ubuntu), `brew install maven` (macOS), "
    "or set KAFKA_HOME to an unpacked Apache Kafka"
)
POSTGRES_MISSING = (
    "PostgreSQL server {wanted}: `sudo apt-get install postgresql{debian}` (Debian, Ubuntu), "
    "`brew install postgresql@{brew}` (macOS), or set PG_BIN to the folder of `initdb` and `postgres`"
)
ACCOUNT_MISSING = (
    f"the OS account `{ACCOUNT}`, since a PostgreSQL server refuses to run as root: "
    f"`useradd --system --user-group --no-create-home {ACCOUNT}`, or start as an ordinary user"
)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where to look. Tests narrow it; everyone else takes the default."""

    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    java_globs: tuple[str, ...] = (
        "/usr/lib/jvm/*/bin/java",
        "/opt/homebrew/opt/openjdk*/bin/java",
        "/usr/local/opt/openjdk*/bin/java",
        "/Library/Java/JavaVirtualMachines/*/Contents/Home/bin/java",
    )
    postgres_globs: tuple[str, ...] = (
        "/usr/lib/postgresql/*/bin",
        "/usr/pgsql-*/bin",
        "/opt/homebrew/opt/postgresql*/bin",
        "/usr/local/opt/postgresql*/bin",
        "/Applications/Postgres.app/Contents/Versions/*/bin",
    )
    is_root: bool = field(default_factory=lambda: os.geteuid() == 0)

    def on_path(self, program: str) -> str | None:
        return shutil.which(program, path=self.environ.get("PATH", ""))


@dataclass(frozen=True, slots=True)
class KafkaTools:
    """`libs` holds the broker's jars; when it does not exist yet, `maven` fetches them there."""

    java: str
    libs: Path
    maven: str | None


@dataclass(frozen=True, slots=True)
class PostgresTools:
    """`account` is the OS account to run under; None is our own."""

    bin: Path
    major: int
    account: str | None


def find(
    cache: Path, *, kafka: bool, postgres: bool, data_major: int | None = None, machine: Machine | None = None
) -> tuple[KafkaTools | None, PostgresTools | None]:
    """The tools for what is asked for. `data_major` is the major version that made the existing data, which no
    other one can read. Raises Misconfigured naming everything that is missing at once."""
    machine = machine or Machine()
    missing: list[str] = []
    kafka_tools = _find_kafka(machine, cache, missing) if kafka else None
    postgres_tools = _find_postgres(machine, data_major, missing) if postgres else None
    if missing:
        raise Misconfigured("this machine lacks:\n" + "\n".join(f"  - {each}" for each in missing))
    return kafka_tools, postgres_tools


def default_cache(environ: Mapping[str, str]) -> Path:
    """Where downloaded jars are kept for all homes of this user (XDG base directories)."""
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "khata"


def _find_kafka(machine: Machine, cache: Path, missing: list[str]) -> KafkaTools | None:
    java = next((path for path in _javas(machine) if _java_major(path) >= JAVA_OLDEST), None)
    if java is None:
        missing.append(JAVA_MISSING)
    maven = None
    if unpacked := machine.environ.get("KAFKA_HOME"):
        libs = Path(unpacked) / "libs"
        if not any(libs.glob("kafka_2.13-*.jar")):
            missing.append(f"the jars of Apache Kafka: KAFKA_HOME is {unpacked}, but {libs} has no kafka_2.13-*.jar")
    else:
        libs = cache / f"kafka-{hashlib.sha256(POM.read_bytes()).hexdigest()[:16]}"
        maven = machine.on_path("mvn")
        if not libs.is_dir() and maven is None:
            missing.append(MAVEN_MISSING)
    return KafkaTools(java, libs, maven) if java else None


def _javas(machine: Machine) -> Iterator[str]:
    if home := machine.environ.get("JAVA_HOME"):
        yield str(Path(home) / "bin" / "java")
    if on_path := machine.on_path("java"):
        yield on_path
    for pattern in machine.java_globs:
        yield from sorted(glob.glob(pattern))


def _java_major(java: str) -> int:
    """17 of `openjdk version "17.0.15"`; 0 for what is no working Java (macOS has a stub by that name)."""
    found = re.search(r'version "(?:1\.)?(\d+)', _output(java, "-version"))
    return int(found[1]) if found else 0


def _find_postgres(machine: Machine, data_major: int | None, missing: list[str]) -> PostgresTools | None:
    account = ACCOUNT if machine.is_root else None
    if account and not _account_exists(account):
        missing.append(ACCOUNT_MISSING)
    for folder in _postgres_folders(machine):
        major = _postgres_major(folder)
        if major in POSTGRES_MAJORS and data_major in (None, major):
            return PostgresTools(folder, major, account)
    missing.append(
        POSTGRES_MISSING.format(
            wanted=f"{data_major}, which made the data of this home" if data_major else "15 to 18",
            debian=f"-{data_major}" if data_major else "",
            brew=data_major or POSTGRES_MAJORS[-1],
        )
    )
    return None


def _postgres_folders(machine: Machine) -> Iterator[Path]:
    if named := machine.environ.get("PG_BIN"):
        yield Path(named)
    if config := machine.environ.get("PG_CONFIG"):
        yield Path(_output(config, "--bindir").strip())
    if on_path := machine.on_path("postgres"):
        yield Path(on_path).resolve().parent
    found = [Path(each) for pattern in machine.postgres_globs for each in glob.glob(pattern)]
    yield from sorted(found, key=_postgres_major, reverse=True)


def _postgres_major(folder: Path) -> int:
    """15 of `postgres (PostgreSQL) 15.18`; 0 for a folder without a server and its `initdb`."""
    if not (folder / "initdb").exists():
        return 0
    found = re.search(r"\) (\d+)", _output(str(folder / "postgres"), "--version"))
    return int(found[1]) if found else 0


def _account_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _output(*argv: str) -> str:
    """What a program prints when asked about itself; empty when it does not run."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr
