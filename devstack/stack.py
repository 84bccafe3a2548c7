"""Kafka and Postgres for one home: those given, those already running, or started here.

`Stack.start`, under the home's lock:
    1  a live stack of this home is shared: same processes, and stopping them is not ours
    2  what a killed parent left running is ended
    3  prerequisites are found, or all missing ones are named
    4  Kafka, then Postgres are started; they boot at the same time; wait until both answer
    5  stack.json tells other processes
A crash anywhere leaves no process (see `processes`); a crash before 5 leaves data that the next start uses.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from devstack import kafka, postgres, postgres_place, record
from devstack.home import Home, is_free
from devstack.identity import Identity
from devstack.prerequisites import KafkaTools, Machine, PostgresTools, default_cache, find
from devstack.processes import Child, ChildEnded, end_all
from shared.domain.errors import Usage

STOP_S = 60.0  # Postgres writes a checkpoint first; Kafka closes its segments
STOP_SIGNALS = {kafka.NAME: kafka.STOP_SIGNAL, postgres.NAME: postgres.STOP_SIGNAL}
ATTEMPTS = 5
PAUSE_S = 0.5
SESSIONS_LEFT = "pre-existing shared memory block"  # PostgreSQL: sessions of a killed server are still ending

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the stack answers. `database_url` is the owner role's, with its password: never log it."""

    kafka_bootstrap: str
    database_url: str = field(repr=False)


@dataclass(slots=True)
class Stack:
    """A Kafka and a Postgres to work with; a context manager that ends what it started.

    `logs` has every server's log by name; `owner_pid` is the process that started them (another's when shared,
    None when both addresses were given)."""

    home: Path
    addresses: Addresses
    logs: dict[str, Path]
    owner_pid: int | None
    _children: list[Child] = field(default_factory=list, repr=False)
    _report: Report = field(default=print, repr=False)

    @classmethod
    def start(
        cls,
        home: Path,
        *,
        kafka_bootstrap: str | None = None,
        database_url: str | None = None,
        report: Report = print,
        cache: Path | None = None,
        machine: Machine | None = None,
    ) -> Stack:
        """The stack of `home`; addresses given are used as they are, and nothing is started for them.

        `cache` keeps Kafka's jars (default: the user's cache folder); `machine` says where programs are looked
        for. Raises Misconfigured naming what this machine lacks, ChildEnded (Fatal) with the last log lines of a
        server that does not start."""
        if kafka_bootstrap and database_url:
            return cls(home, Addresses(kafka_bootstrap, database_url), {}, None, _report=report)
        place = Home.at(home)
        with place.locked(report):
            if found := record.running(place):
                return cls._shared(place, found, kafka_bootstrap, database_url, report)
            return _Start(place, machine or Machine(), report, kafka_bootstrap, database_url).carry_out(cache)

    @classmethod
    def _shared(
        cls, home: Home, found: record.Record, kafka_bootstrap: str | None, database_url: str | None, report: Report
    ) -> Stack:
        addresses = Addresses(kafka_bootstrap or found.kafka_bootstrap, database_url or found.database_url)
        report(f"using the stack of {home.root} that process {found.supervisor.pid} runs")
        logs = {name: server.log for name, server in found.servers.items()}
        for name, log in logs.items():
            report(f"{name}: log {log}")
        return cls(home.root, addresses, logs, found.supervisor.pid, _report=report)

    def pids(self) -> dict[str, int]:
        """The servers that we started and have not ended, by name (`kafka`, `postgres`)."""
        return {child.name: child.pid for child in self._children}

    def check(self) -> None:
        """Raises ChildEnded when a server that we started has ended by itself."""
        for child in self._children:
            if child.exit_code is not None:
                raise child.ended()

    def stop(self) -> None:
        """End what we started and wait for it; does nothing for a shared or given stack, or a second time."""
        if not self._children:
            return
        home = Home(self.home)
        with home.locked(self._report):
            end_all(self._children, STOP_SIGNALS, STOP_S)
            home.stack_file.unlink(missing_ok=True)
        self._children.clear()

    def __enter__(self) -> Stack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def reset(home: Path) -> None:
    """Wipe all that this home holds, its database included wherever that lies.

    Raises Usage while a stack or a supervisor of this home runs, or when the folder is not one of ours."""
    if not home.exists():
        return
    place = Home.at(home)
    if not place.lock_file.exists():
        if any(home.iterdir()):
            raise Usage(f"{home} was not made by Khata (it has no {place.lock_file.name}); remove it yourself")
        return
    with place.locked():
        stack = record.Record.load(place)
        for runner in (stack.supervisor if stack else None, record.services_supervisor(place)):
            if runner and runner.alive():
                raise Usage(f"process {runner.pid} runs the stack of {home}; stop it first")
        record.end_leftovers(place, lambda _: None)
        postgres_place.forget(place)
        for each in place.root.iterdir():
            if each == place.lock_file:  # others may be waiting on it, and a new file would be another lock
                continue
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each)
            else:
                each.unlink()


@dataclass(slots=True)
class _Start:
    """One start of what was not given."""

    home: Home
    machine: Machine
    report: Report
    kafka_bootstrap: str | None
    database_url: str | None
    children: list[Child] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)

    def carry_out(self, cache: Path | None) -> Stack:
        """Steps 2 to 5 of the module's list; the caller holds the lock."""
        record.end_leftovers(self.home, self.report)
        tools = find(
            cache or default_cache(self.machine.environ),
            kafka=self.kafka_bootstrap is None,
            postgres=self.database_url is None,
            data_major=postgres.data_major(postgres_place.remembered(self.home)),
            machine=self.machine,
        )
        try:
            addresses = self._servers_with_patience(*tools)
            logs = {child.name: child.command.log for child in self.children}
            for name, log in logs.items():
                self.report(f"{name} is up, log {log}")
            self._save(addresses)
        except BaseException:  # also Ctrl-C: the servers have no other owner yet
            end_all(self.children, STOP_SIGNALS, STOP_S)
            raise
        return Stack(self.home.root, addresses, logs, os.getpid(), self.children, self.report)

    def _servers_with_patience(self, kafka_tools: KafkaTools | None, postgres_tools: PostgresTools | None) -> Addresses:
        """Start again when someone else took a chosen port first, or sessions of a killed server are not gone yet."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._servers(kafka_tools, postgres_tools)
            except ChildEnded as error:
                end_all(self.children, STOP_SIGNALS, STOP_S)
                self.children.clear()
                port_lost = not all(is_free(port) for port in self.ports.values())
                if attempt == ATTEMPTS or not (port_lost or SESSIONS_LEFT in str(error)):
                    raise
                time.sleep(PAUSE_S)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _servers(self, kafka_tools: KafkaTools | None, postgres_tools: PostgresTools | None) -> Addresses:
        kafka_bootstrap, database_url = self.kafka_bootstrap, self.database_url
        self.ports = self.home.ports(
            (*(kafka.PORTS if kafka_tools else ()), *(postgres.PORTS if postgres_tools else ()))
        )
        # First, because it refuses what another account made: before the broker has written to it.
        folder = postgres_place.settle(self.home, postgres_tools.account, self.report) if postgres_tools else None
        broker = kafka.Kafka.of(self.home, kafka_tools, self.machine.environ) if kafka_tools else None
        broker_child = self._keep(broker.launch(self.ports, self.report)) if broker else None
        if postgres_tools and folder:
            server = postgres.Postgres.of(self.home, postgres_tools, folder, self.machine.environ)
            server_child = self._keep(server.launch(self.ports["postgres"]))
            database_url = server.wait_ready(server_child, self.ports["postgres"])
        if broker and broker_child:
            broker.wait_ready(broker_child, self.ports["kafka"])
            kafka_bootstrap = f"127.0.0.1:{self.ports['kafka']}"
        assert kafka_bootstrap and database_url  # noqa: S101 - given, or started just above
        return Addresses(kafka_bootstrap, database_url)

    def _keep(self, child: Child) -> Child:
        self.children.append(child)
        return child

    def _save(self, addresses: Addresses) -> None:
        us = Identity.of(os.getpid())
        servers = {
            child.name: record.Server(child.identity, child.command.log, STOP_SIGNALS[child.name])
            for child in self.children
            if child.identity
        }
        assert us  # noqa: S101 - we are running
        record.Record(us, addresses.kafka_bootstrap, addresses.database_url, servers).save(self.home)
