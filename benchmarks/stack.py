"""A Kafka and a Postgres for one benchmark run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pydantic import SecretStr

from devstack.home import Home
from devstack.stack import Stack, reset
from devstack.supervisor import ServiceSpec, Supervisor
from shared.contracts.topics import USAGE_EVENTS
from shared.kafka import topics
from shared.postgres.migrate import migrate
from shared.runtime.settings import DatabaseSettings, KafkaSettings


@dataclass(frozen=True, slots=True)
class BenchParts:
    home: Path
    bootstrap: str
    database_url: str = field(repr=False)
    kafka_pid: int
    postgres_pid: int
    prefix: str = ""  # of topics, where a part needs several sets

    @property
    def kafka(self) -> KafkaSettings:
        return KafkaSettings(kafka_bootstrap_servers=self.bootstrap, kafka_topic_prefix=self.prefix)

    @property
    def usage_topic(self) -> str:
        return self.kafka.names.topic(USAGE_EVENTS)

    @property
    def database(self) -> DatabaseSettings:
        return DatabaseSettings(database_url=SecretStr(self.database_url))

    @property
    def env(self) -> dict[str, str]:
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "KAFKA_TOPIC_PREFIX": self.prefix,
            "DATABASE_URL": self.database_url,
            "KHATA_DEV": "true",
            "KHATA_INSTANCE": "bench",
            "KEY_PEPPERS": "bench:" + "5a" * 32,
        }


@contextmanager
def bench_stack(home: Path) -> Iterator[BenchParts]:
    """Fresh servers, schema and topics; wiped afterwards."""
    with Stack.start(home, report=lambda _: None) as stack:
        addresses, pids = stack.addresses, stack.pids()
        parts = BenchParts(
            home, addresses.kafka_bootstrap, addresses.database_url, pids["kafka"], postgres_pid=pids["postgres"]
        )
        migrate(parts.database_url)
        asyncio.run(topics.apply(parts.kafka, dev=True))
        yield parts
    reset(home)


@dataclass(frozen=True, slots=True)
class Running:
    """One process that is measured."""

    url: str
    metrics_url: str
    process: psutil.Process

    @property
    def memory_mb(self) -> float:
        return self.process.memory_info().rss / 1e6

    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system


@contextmanager
def running(parts: BenchParts, *module: str, ready: str = "metrics", name: str = "", **env: str) -> Iterator[Running]:
    """`python -m <module>` with an HTTP port and a metrics port, until it is ready; `ready` names the port asked."""
    name = name or module[-1].rpartition(".")[2]
    ports = Home.at(parts.home).ports((f"{name}-http", f"{name}-metrics"))
    http, metrics = (str(port) for port in ports.values())
    path = "/readyz" if ready == "metrics" else "/openapi.json"
    spec = ServiceSpec(
        name,
        (sys.executable, "-m", *module),
        parts.env | {"HTTP_PORT": http, "METRICS_PORT": metrics, "LOG_LEVEL": "WARNING"} | env,
        f"http://127.0.0.1:{metrics if ready == 'metrics' else http}{path}",
    )
    with Supervisor(parts.home, report=lambda _: None) as supervisor:
        supervisor.start([spec])
        supervisor.wait_ready()
        pid = supervisor.pid(name)
        assert pid is not None, "it is ready"
        yield Running(f"http://127.0.0.1:{http}", f"http://127.0.0.1:{metrics}/metrics", psutil.Process(pid))
