"""A whole stack on one machine: found when it runs (`make up`), else started for as long as it is needed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.stack.services import ORDER, Plan
from devstack.home import Home
from devstack.record import Record, services_supervisor
from devstack.stack import Addresses, Stack
from devstack.supervisor import Supervisor, answers_200, services_of
from shared.domain.errors import Usage
from shared.kafka import topics
from shared.postgres.migrate import migrate
from shared.runtime.settings import KafkaSettings

Report = Callable[[str], None]


def default_home() -> Path:
    """`KHATA_HOME`, else .khata in the current folder."""
    return Path(os.environ.get("KHATA_HOME", ".khata")).absolute()


@dataclass(frozen=True, slots=True)
class Running:
    """A stack that is up. `shared` when another process (make up) runs it."""

    plan: Plan
    shared: bool
    logs: dict[str, Path]

    def pid(self, service: str) -> int | None:
        state = services_of(self.plan.home).get(service)
        return state.pid if state else None

    def restarts(self, service: str) -> int:
        state = services_of(self.plan.home).get(service)
        return state.restarts if state else 0


@contextmanager
def running(home: Path, report: Report) -> Iterator[Running]:
    """Kafka, Postgres, schema, topics and every service, ready. Ends only what it started.

    Given addresses (`KAFKA_BOOTSTRAP_SERVERS`, `DATABASE_URL`) are used as they are. Raises Misconfigured for
    what the machine lacks, Fatal when something does not start (with the last lines of its log).
    """
    kafka, database = given_addresses()
    stack = Stack.start(home, kafka_bootstrap=kafka, database_url=database, report=report)
    with stack:
        plan = Plan.of(home, stack.addresses, os.environ.get("KAFKA_TOPIC_PREFIX", ""))
        prepare(plan, report)
        if _services_answer(home):
            _same_addresses(home, stack.addresses)
            report(f"using the services that run in {plan.home}")
            yield Running(plan, True, stack.logs | {name: s.log for name, s in services_of(home).items()})
            return
        with Supervisor(home, report=report) as supervisor:
            supervisor.start(plan.specs())
            supervisor.wait_ready()
            yield Running(plan, False, stack.logs | {name: supervisor.log(name) for name in ORDER})


def adopt() -> None:
    """Commands without an environment of their own work on the stack that runs in the default home, if one does."""
    if any(given_addresses()):
        return
    home = default_home()
    plan = plan_of_running(home) if home.exists() else None
    if plan is not None:
        for name, value in plan.environment().items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("KHATA_INGEST_URL", plan.ingest_url)


def plan_of_running(home: Path) -> Plan | None:
    """What the live stack of a home is told; None when nothing runs there."""
    place = Home.at(home)
    record = Record.load(place)
    if record is not None and record.supervisor.alive():
        addresses = Addresses(record.kafka_bootstrap, record.database_url)
    elif services_supervisor(place) is not None and all(given_addresses()):
        kafka, database = given_addresses()
        addresses = Addresses(str(kafka), str(database))
    else:
        return None
    return Plan.of(home, addresses, os.environ.get("KAFKA_TOPIC_PREFIX", ""))


def given_addresses() -> tuple[str | None, str | None]:
    """Kafka's and Postgres's address where the environment names them; then they are used as they are."""
    return os.environ.get("KAFKA_BOOTSTRAP_SERVERS"), os.environ.get("DATABASE_URL")


def prepare(plan: Plan, report: Report) -> None:
    """Schema and topics; safe to repeat."""
    applied = migrate(plan.addresses.database_url)
    settings = KafkaSettings(kafka_bootstrap_servers=plan.addresses.kafka_bootstrap, kafka_topic_prefix=plan.prefix)
    states = asyncio.run(topics.apply(settings, dev=True))
    created = sum(state.outcome == "created" for state in states)
    if applied or created:
        report(f"schema: {len(applied)} migrations applied; topics: {created} created")


def _same_addresses(home: Path, given: Addresses) -> None:
    """Services that run here were told their addresses when they started."""
    theirs = plan_of_running(home)
    if theirs is not None and theirs.addresses != given:
        raise Usage(f"a stack with other addresses runs in {home}: set KHATA_HOME to another folder")


def _services_answer(home: Path) -> bool:
    states = services_of(home)
    return set(ORDER) <= states.keys() and all(
        state.ready_url is not None and answers_200(state.ready_url) for state in states.values()
    )
