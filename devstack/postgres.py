"""One PostgreSQL server on 127.0.0.1, with the role and the database that Khata's migrations expect.

A cluster's folder holds `data/`, the generated passwords (0600) and the Unix socket. The server's own
superuser (`postgres`) is only for making `khata_owner`, which owns the database and may create roles and
databases, and nothing more: what works here works on a hosted server.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg
from psycopg import sql

from devstack.home import Home, write_private
from devstack.identity import command_line
from devstack.prerequisites import PostgresTools
from devstack.processes import Child, Command, fresh_log, last_lines, run, spawn
from shared.domain.errors import Fatal

NAME = "postgres"
PORTS = ("postgres",)
OWNER = "khata_owner"
DATABASE = "khata"
SUPERUSER = "postgres"
INITDB_S = 120.0
READY_S = 600.0  # after a kill the server replays up to max_wal_size of log; it answers "starting up" meanwhile
STOP_SIGNAL = signal.SIGINT  # fast shutdown: sessions are ended, a checkpoint is written (PostgreSQL 15, 19.5)
SOCKET_PATH_MAX = 100  # sun_path holds 104 bytes on macOS, 108 on Linux

SETTINGS = """\
# Written at every start by devstack. Your own settings: ALTER SYSTEM, which is read after this file.
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{socket_folder}'
password_encryption = scram-sha-256
max_connections = 200
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %u@%d '
log_lock_waits = on

# Every commit is on disk before it is acknowledged: the tests that kill the server rely on it.
fsync = on
synchronous_commit = on

# Random identity keys touch many pages; the first touch after a checkpoint writes the whole page to the log,
# so checkpoints are rare.
shared_buffers = 256MB
max_wal_size = 4GB
checkpoint_timeout = 30min
"""


@dataclass(frozen=True, slots=True)
class Postgres:
    """What this home's server is made of."""

    tools: PostgresTools
    folder: Path
    log: Path
    environ: Mapping[str, str]

    @classmethod
    def of(cls, home: Home, tools: PostgresTools, folder: Path, environ: Mapping[str, str]) -> Postgres:
        """Only the path and temporary folder of our environment reach the server: PG* variables of a person's
        shell (PGDATA, PGOPTIONS, ...) must not steer it."""
        kept = {key: environ[key] for key in ("PATH", "TMPDIR") if key in environ}
        return cls(tools, folder, home.log(NAME), {**kept, "LC_ALL": "C"})

    def launch(self, port: int) -> Child:
        """Start the server, its cluster made where there is none. Raises ChildEnded when that fails."""
        fresh_log(self.log)
        if not self._data.exists():
            self._initdb()
        self._remove_stale_locks()
        (self._data / "khata.conf").write_text(SETTINGS.format(port=port, socket_folder=self._socket_folder()))
        return spawn(self._command(NAME, "postgres", "-D", str(self._data)))

    def wait_ready(self, child: Child, port: int) -> str:
        """Until the owner's database is there; its URL. Raises ChildEnded when the server ends, Fatal after
        `READY_S`."""
        deadline = time.monotonic() + READY_S
        admin = _url(SUPERUSER, self._password(SUPERUSER), port, "postgres")
        while True:
            try:
                with psycopg.connect(admin, autocommit=True, connect_timeout=5) as connection:
                    self._prepare(connection)
                    return _url(OWNER, self._password(OWNER), port, DATABASE)
            except psycopg.OperationalError as error:
                if child.exit_code is not None:
                    raise child.ended() from error
                if "password authentication failed" in str(error):
                    raise Fatal(
                        f"the database refuses the password in {self._password_file(SUPERUSER)}: put the right one "
                        "back, or wipe this home"
                    ) from error
                if time.monotonic() > deadline:
                    raise Fatal(f"PostgreSQL is not ready after {READY_S:.0f} s.\n{last_lines(self.log)}") from error
            time.sleep(0.03)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _initdb(self) -> None:
        """Make the cluster beside its place and move it there whole: an interrupted one is thrown away."""
        partial = self.folder / "data.partial"
        if partial.exists():
            shutil.rmtree(partial)
        self._password(SUPERUSER)
        options = (
            *("-D", str(partial), "--username", SUPERUSER, "--pwfile", str(self._password_file(SUPERUSER))),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", *_locale(self.tools.major)),
        )
        run(self._command("initdb", "initdb", *options), INITDB_S)
        with (partial / "postgresql.conf").open("a") as file:
            file.write("\ninclude = 'khata.conf'\n")
        partial.rename(self._data)

    def _prepare(self, connection: psycopg.Connection) -> None:
        """The owner's role and database where missing, its password where the file is. The password travels as a
        SCRAM verifier, so that a failing statement cannot leave it in the server's log."""
        known = _exists(connection, "SELECT 1 FROM pg_roles WHERE rolname = %s", OWNER)
        if not (known and self._password_file(OWNER).exists()):
            password = self._password(OWNER)
            verifier = connection.pgconn.encrypt_password(password.encode(), OWNER.encode(), b"scram-sha-256")
            change = sql.SQL("{} ROLE {} LOGIN CREATEROLE CREATEDB PASSWORD {}").format(
                sql.SQL("ALTER" if known else "CREATE"), sql.Identifier(OWNER), sql.Literal(verifier.decode())
            )
            connection.execute(change)
            # `drop_database` ends the sessions of the roles that the owner created.
            connection.execute(sql.SQL("GRANT pg_signal_backend TO {}").format(sql.Identifier(OWNER)))
        if not _exists(connection, "SELECT 1 FROM pg_database WHERE datname = %s", DATABASE):
            create = sql.SQL("CREATE DATABASE {} OWNER {}")
            connection.execute(create.format(sql.Identifier(DATABASE), sql.Identifier(OWNER)))

    def _password_file(self, role: str) -> Path:
        return self.folder / f"{role}.password"

    def _password(self, role: str) -> str:
        """The generated password of a role, kept from its first use on."""
        file = self._password_file(role)
        if not file.exists():
            write_private(file, secrets.token_urlsafe(24) + "\n")
            if self.tools.account:
                entry = pwd.getpwnam(self.tools.account)
                os.chown(file, entry.pw_uid, entry.pw_gid)
        return file.read_text().strip()

    def _socket_folder(self) -> str:
        """The Unix socket lies in our folder, away from other servers' sockets; a path too long for one has none."""
        longest = self.folder / ".s.PGSQL.65535.lock"
        return str(self.folder) if len(os.fsencode(longest)) <= SOCKET_PATH_MAX else ""

    def _remove_stale_locks(self) -> None:
        """The server removes a dead one's lock files itself, but not when the pid now means another process of
        its account, or a zombie that nobody reaps. We hold the home's lock and have ended what the last start
        left, so look who it is."""
        for file in (self._data / "postmaster.pid", *self.folder.glob(".s.PGSQL.*.lock")):
            try:
                pid = int(file.read_text().splitlines()[0])
            except (FileNotFoundError, IndexError, ValueError):
                continue
            if str(self._data) not in command_line(pid):
                file.unlink()

    def _command(self, name: str, program: str, *arguments: str) -> Command:
        return Command(
            name=name,
            argv=(str(self.tools.bin / program), *arguments),
            log=self.log,
            env=self.environ,
            cwd=self.folder,
            account=self.tools.account,
            orphan_signal=STOP_SIGNAL,  # SIGKILL would leave its sessions running
        )


def create_database(owner_url: str, name: str, template: str | None = None) -> str:
    """Make database `name` beside the one of `owner_url`, as a copy of `template` when given; its URL.

    Nobody may be connected to the template. Raises psycopg.Error (DuplicateDatabase, ObjectInUse, ...)."""
    copied = sql.SQL(" TEMPLATE {}").format(sql.Identifier(template)) if template else sql.SQL("")
    with psycopg.connect(owner_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}{}").format(sql.Identifier(name), copied))
    return urlsplit(owner_url)._replace(path=f"/{quote(name, safe='')}").geturl()


def drop_database(owner_url: str, name: str) -> None:
    """Drop database `name` if it is there, ending the sessions in it."""
    with psycopg.connect(owner_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def data_major(folder: Path) -> int | None:
    """The major version that made the cluster in `folder`; None when there is none yet."""
    try:
        return int((folder / "data" / "PG_VERSION").read_text())
    except FileNotFoundError:
        return None


def _locale(major: int) -> tuple[str, ...]:
    """C.UTF-8: the order of bytes, with letters known. From 17 on the server brings it along; before, it is the
    system's, which macOS lacks."""
    if major >= 17:
        return ("--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8")
    return ("--locale", "C" if os.uname().sysname == "Darwin" else "C.UTF-8")


def _exists(connection: psycopg.Connection, query: str, name: str) -> bool:
    return connection.execute(query.encode(), (name,)).fetchone() is not None


def _url(role: str, password: str, port: int, database: str) -> str:
    return f"postgresql://{role}:{quote(password, safe='')}@127.0.0.1:{port}/{database}"
