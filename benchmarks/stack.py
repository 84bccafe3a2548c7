"""A Kafka and a Postgres for one benchmark run, and how figures are told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from devstack.stack import Stack, reset
from shared.kafka import topics
from shared.postgres.migrate import migrate
from shared.runtime.settings import DatabaseSettings, KafkaSettings


@dataclass(frozen=True, slots=True)
class Figure:
    """Events per second of something, and of the limit it is held against."""

    what: str
    rate: float
    limit: str
    limit_rate: float


@dataclass(frozen=True, slots=True)
class BenchParts:
    home: Path
    bootstrap: str
    database_url: str = field(repr=False)

    @property
    def kafka(self) -> KafkaSettings:
        return KafkaSettings(kafka_bootstrap_servers=self.bootstrap)

    @property
    def database(self) -> DatabaseSettings:
        return DatabaseSettings(database_url=SecretStr(self.database_url))

    @property
    def env(self) -> dict[str, str]:
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "DATABASE_URL": self.database_url,
            "KHATA_DEV": "true",
            "KHATA_INSTANCE": "bench",
            "KEY_PEPPERS": "bench:" + "5a" * 32,
        }


@contextmanager
def bench_stack(home: Path) -> Iterator[BenchParts]:
    """Fresh servers, schema and topics; wiped afterwards."""
    with Stack.start(home, report=lambda _: None) as stack:
        parts = BenchParts(home, stack.addresses.kafka_bootstrap, stack.addresses.database_url)
        migrate(parts.database_url)
        asyncio.run(topics.apply(parts.kafka, dev=True))
        yield parts
    reset(home)
